"""A checkpoint as a QR code: what a camera carries over an air gap."""

Matrix = tuple[tuple[bool, ...], ...]
"""Modules of a code, row by row, its quiet border included; True is dark."""


def matrix(text: str) -> Matrix | None:
    """The QR code of a text; None where the package `segno` is not installed, or the text is too long for one."""
    try:
        import segno
    except ModuleNotFoundError:
        return None
    try:
        code = segno.make(text, error="m", micro=False)
    except segno.DataOverflowError:
        return None
    return tuple(tuple(bool(dark) for dark in row) for row in code.matrix_iter(border=4))
