"""Text of strangers made harmless to look at: on a terminal, in a page, in a spreadsheet."""

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First letters that make a spreadsheet run a cell, full-width ones included (OWASP, CSV injection)."""


def printable(text: str) -> str:
    """The text with everything that is not seen written out: escapes to a terminal, marks that turn its direction."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _written_out(letter) for letter in text)


def cell(text: str) -> str:
    """The text as a spreadsheet takes it for text: what would begin a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(_STARTS_FORMULA) else text


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()
