"""QR codes of short texts, on the terminal or as a picture; segno is in the extra called `report`."""

import io
from pathlib import Path
from typing import Any

INSTALL = 'pip install "segno>=1.6"'
"""What brings it."""


def picture(text: bytes, path: Path) -> None:
    """Write the QR code of a text as PNG, or as SVG where the name ends in .svg.

    Raises:
        EnvironmentProblem: segno is not installed. BadInput: the text is too long for a QR code.
    """
    from audit.files import replace_file

    out = io.BytesIO()
    _code(text).save(out, kind="svg" if path.suffix.lower() == ".svg" else "png", scale=4)
    replace_file(path, out.getvalue(), mode=0o644)


def drawn(text: bytes) -> str:
    """The QR code of a text in half blocks, for a terminal. Raises as `picture`."""
    out = io.StringIO()
    _code(text).terminal(out, compact=True)
    return out.getvalue()


def _code(text: bytes) -> Any:
    from audit.errors import BadInput, EnvironmentProblem

    try:
        import segno
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "a QR code needs the Python package segno, which is not installed",
            hint=f"{INSTALL}; the text itself needs nothing: leave out --qr",
        ) from error
    try:
        return segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError as error:
        raise BadInput(
            f"{len(text):,} bytes are too many for a QR code", hint="carry the files of --out on a stick"
        ) from error
