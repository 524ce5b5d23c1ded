"""How much an event may say: short printable lines, so that none carries a document or a terminal's control codes."""

from audit.errors import BadInput


def line(field: str, text: object, most: int, empty: bool = True) -> None:
    """See that a field is one line of printable text.

    Args:
        field: its name, for the error.
        text: what it holds; never shown in the error.
        most: characters that it may have.
        empty: whether it may say nothing.

    Raises:
        BadInput: it is no text, too long, empty, or holds what cannot be printed.
    """
    if type(text) is not str or len(text) > most or not text.isprintable() or not (empty or text.strip()):
        raise BadInput(
            f"this must be one printable line of at most {most} characters",
            where=f"an event's {field}",
            hint="longer texts are objects of the vault: put them there and name them by their id",
        )
