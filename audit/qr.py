"""A checkpoint as a QR code: what a camera carries over an air gap."""

from typing import Any

from audit.errors import BadInput, EnvironmentProblem

Matrix = tuple[tuple[bool, ...], ...]
"""Modules of a code, row by row, its quiet border included; True is dark."""


def matrix(text: str) -> Matrix:
    """The QR code of a text, error correction M. Raises as `code`."""
    return tuple(tuple(bool(dark) for dark in row) for row in code(text).matrix_iter(border=4))


def code(text: str) -> Any:
    """The QR code of a text as segno's own object, error correction M.

    Raises:
        EnvironmentProblem: the package segno (the ``report`` extra) is not installed.
        BadInput: the text is too long for one code.
    """
    try:
        import segno
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "a QR code needs the package segno, which is not installed", hint='pip install "segno>=1.6"'
        ) from error
    try:
        return segno.make(text, error="m", micro=False)
    except segno.DataOverflowError as error:
        raise BadInput(f"a text of {len(text):,} letters is too long for a QR code") from error
