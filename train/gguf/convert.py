"""Convert a model directory into GGUF with the converter that came with llama-cpp-python.

The converter is data, not a dependency: ``make setup`` takes it out of the pinned source distribution, and nothing is
fetched at run time. It runs as a program of its own, so that its imports and its log stay out of ours.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from audit.errors import BadInput, EnvironmentProblem, Refused
from train.gguf.files import PICKLES, replaced
from train.gguf.header import read_header

_DRIVER = Path(__file__).with_name("driver.py")
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1"}
TIMEOUT_S = 4 * 3600
"""After this long a conversion is taken to hang."""


@dataclass(frozen=True)
class Gguf:
    """A converted model."""

    text: Path
    """The language model with tokenizer and chat template."""
    mmproj: Path | None
    """The vision tower and projector; None for a model that does not see."""


def converter_home() -> Path:
    """Where the converter lies: ``CLOCHE_CONVERTER``, or ``share/cloche/converter`` of this Python environment.

    Raises:
        EnvironmentProblem: it is not there.
    """
    named = os.environ.get("CLOCHE_CONVERTER")
    home = Path(named) if named else Path(sys.prefix) / "share" / "cloche" / "converter"
    if not (home / "conversion" / "base.py").is_file() or not (home / "gguf-py").is_dir():
        raise EnvironmentProblem("the GGUF converter is not installed", where=str(home), hint="make setup")
    return home


def convert(model: Path, out: Path, outtype: str = "f16", name: str = "model") -> Gguf:
    """Write ``<name>-<outtype>.gguf`` and ``<name>-mmproj-<outtype>.gguf`` into ``out``.

    Args:
        model: a merged model directory (safetensors, config.json, tokenizer, chat template, preprocessor config).
        out: where the files go; each appears whole or not at all.
        outtype: ``f16`` or ``f32``.
        name: the model's name in the files and their metadata.

    Raises:
        BadInput: not a model directory, or one that the converter cannot convert (its last words are in the message).
        Refused: the directory holds pickles, or asks for code of its own.
        EnvironmentProblem: the converter is missing, or the disk is full.
    """
    home = converter_home()
    if outtype not in ("f16", "f32"):
        raise BadInput(f"{outtype} is no type to convert to", hint="use f16 or f32")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput("a model's name is letters, digits, points and dashes", where=name)
    _check(model)
    text, mmproj = out / f"{name}-{outtype}.gguf", out / f"{name}-mmproj-{outtype}.gguf"
    with replaced(text) as new_text:
        new_mmproj = new_text.with_name(f"{new_text.name}.mmproj")
        try:
            _run(home, model.resolve(), new_text.resolve(), new_mmproj.resolve(), outtype, name)
            read_header(new_text)
            sees = new_mmproj.is_file()
            if sees:
                read_header(new_mmproj)
                with replaced(mmproj) as partial:
                    new_mmproj.replace(partial)
        finally:
            new_mmproj.unlink(missing_ok=True)
    return Gguf(text, mmproj if sees else None)


def _check(model: Path) -> None:
    """Refuse what would run code of the model's own, before any library looks at it."""
    if not (model / "config.json").is_file():
        raise BadInput("this is not a model directory: it has no config.json", where=str(model))
    for path in sorted(model.iterdir()):
        if path.suffix in PICKLES:
            raise Refused(f"{path.name} is a pickle, which runs code when it is read", where=str(model))
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        path = model / name
        if path.is_file():
            try:
                found = json.loads(path.read_text("utf-8"))
            except ValueError as error:
                raise BadInput(f"{name} is not JSON: {error}", where=str(path)) from error
            if isinstance(found, dict) and "auto_map" in found:
                raise Refused(f"{name} asks for code of the model's own (auto_map)", where=str(path))


def _run(home: Path, model: Path, text: Path, *arguments: str | Path) -> None:
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ} | _OFFLINE
    environment["TMPDIR"] = str(text.parent)  # weights learned from patients lie there, and nowhere else
    command = [sys.executable, "-I", "-B", str(_DRIVER), str(home), str(model), str(text), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(f"the converter did not end within {TIMEOUT_S // 3600} hours") from error
    if done.returncode == 0:
        return
    why = summary(done.stderr) or f"it ended with status {done.returncode}"
    if "No space left" in done.stderr or done.returncode == -9:
        raise EnvironmentProblem(f"the conversion did not fit on this machine: {why}", hint="cloche doctor")
    raise BadInput(f"the model cannot be converted to GGUF: {why}", where=str(model))


def summary(stderr: str) -> str:
    """The line of a converter's log that says what went wrong, without the traceback above it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR:|[\w.]*(Error|Exception)\b)", line)]
    telling = [line for line in errors if not line.startswith("ERROR:")] or errors or lines[-1:]
    return telling[-1].removeprefix("ERROR:")[:300] if telling else ""
