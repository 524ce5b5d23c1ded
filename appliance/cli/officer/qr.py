"""A checkpoint's QR code as a picture or on the terminal."""

import io
from pathlib import Path


def picture(text: str, path: Path) -> None:
    """Write the QR code of a text as PNG, or as SVG where the name ends in .svg.

    Raises:
        EnvironmentProblem: segno is not installed. BadInput: the text is too long for a QR code.
    """
    from audit.files import replace_file
    from audit.qr import code

    out = io.BytesIO()
    code(text).save(out, kind="svg" if path.suffix.lower() == ".svg" else "png", scale=4)
    replace_file(path, out.getvalue(), mode=0o644)


def drawn(text: str) -> str:
    """The QR code of a text in half blocks, for a terminal. Raises as `picture`."""
    from audit.qr import code

    out = io.StringIO()
    code(text).terminal(out, compact=True)
    return out.getvalue()
