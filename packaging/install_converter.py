"""Install the GGUF converter as data, out of the pinned llama-cpp-python source distribution.

The installed llama-cpp-python package runs GGUF files but cannot make them: the scripts that do stand only in its
source distribution. This takes them out, by name, into `{sys.prefix}/share/cloche/converter`, where `cloche export`
runs them in a subprocess. Nothing of it is imported, and nothing is fetched later on.

    .venv/bin/python packaging/install_converter.py            # pip fetches the source distribution
    .venv/bin/python packaging/install_converter.py FILE       # from a copy that came on a disk
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

VERSION = "0.3.36"
"""llama-cpp-python, the same as in setup.cfg: converter and runtime must come from one llama.cpp."""
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Digest of the whole source distribution, checked before a byte of it is unpacked or run."""
INSIDE = PurePosixPath(f"llama_cpp_python-{VERSION}/vendor/llama.cpp")
"""Where llama.cpp stands in the archive."""
WANTED = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py", "LICENSE")
"""Files and folders of llama.cpp that converting needs, and its licence."""
STAMP = "VERSION.json"
"""Written last into the folder: says which release it is and how many files it has."""


def main(arguments: list[str]) -> int:
    """Install the converter unless this very release is there already; return the exit code."""
    target = Path(sys.prefix) / "share" / "cloche" / "converter"
    if is_installed(target):
        print(f"converter {VERSION}: already at {target}")
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converter-") as scratch:
        archive = Path(arguments[0]) if arguments else download(Path(scratch))
        if sha256(archive) != SDIST_SHA256:
            print(f"converter: {archive} is not llama-cpp-python {VERSION} as we know it: digest differs.\n"
                  "  Next: delete it, clear pip's cache (pip cache purge) and try again", file=sys.stderr)  # fmt: skip
            return 4
        fresh = Path(scratch) / "converter"
        files = unpack(archive, fresh)
        put_in_place(fresh, target, Path(scratch))
    print(f"converter {VERSION}: {files} files at {target}")
    return 0


def is_installed(target: Path) -> bool:
    """Whether `target` holds this release, whole."""
    try:
        stamp = json.loads((target / STAMP).read_text())
    except (OSError, ValueError):
        return False
    here = sum(1 for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return stamp.get("sdist_sha256") == SDIST_SHA256 and here == stamp.get("files", -1) + 1


def download(folder: Path) -> Path:
    """Let pip fetch the source distribution (76 MB, kept in pip's own cache), held to the digest."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    # pip prepares metadata (seconds) but builds nothing (minutes); it checks the digest before either.
    subprocess.run([*pip, "--require-hashes", "-r", str(requirement), "-d", str(folder)], check=True)
    return folder / f"llama_cpp_python-{VERSION}.tar.gz"


def sha256(path: Path) -> str:
    """Digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path) -> int:
    """Write the wanted plain files of `archive` under `folder`; return how many.

    Raises:
        ValueError: a wanted name is missing, climbs out of the folder, or is a link.
    """
    found: set[str] = set()
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not name.is_relative_to(INSIDE) or member.isdir():
                continue
            inside = name.relative_to(INSIDE)
            if not inside.parts or inside.parts[0] not in WANTED:
                continue
            source = tar.extractfile(member) if member.isreg() and ".." not in inside.parts else None
            if source is None:
                raise ValueError(f"{member.name}: not a plain file inside its folder")
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("xb") as out:
                shutil.copyfileobj(source, out)
            found.add(inside.parts[0])
            count += 1
    missing = sorted(set(WANTED) - found)
    if missing:
        raise ValueError(f"{archive.name} lacks {', '.join(missing)}")
    stamp = {"llama_cpp_python": VERSION, "sdist_sha256": SDIST_SHA256, "files": count}
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
    return count


def put_in_place(fresh: Path, target: Path, scratch: Path) -> None:
    """Swap the new folder in by renames: nobody ever sees half of one."""
    if target.exists():
        os.rename(target, scratch / "old")
    os.rename(fresh, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
