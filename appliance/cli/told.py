"""Texts that a person gives: as options or, where they are a patient's, on standard input; and how they are shown."""

import click

MOST = 1 << 20
"""Characters of standard input that are read at once."""


def told(*given: str) -> tuple[str, ...]:
    """The texts; those that are a dash come from standard input in their order: a line each, the last one to its end.

    Raises:
        BadInput: standard input is no text in UTF-8.
    """
    if "-" not in given:
        return given
    from audit.errors import BadInput

    try:
        stream = click.open_file("-", "r", "utf-8", "strict")
        lines = [stream.readline(MOST).strip() if one == "-" else one for one in given[:-1]]
        return *lines, stream.read(MOST) if given[-1] == "-" else given[-1]
    except UnicodeDecodeError:
        raise BadInput("standard input is no text in UTF-8", where="-", hint="give UTF-8 text") from None


def shown(text: str) -> str:
    """A text of strangers with its line ends and tabs, and all else that is not seen written out."""
    from audit.printable import printable

    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(printable(part) for part in line.split("\t")) for line in lines)
