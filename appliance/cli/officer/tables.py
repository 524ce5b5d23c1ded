"""Tables of what the log says; nothing in a cell is taken for markup or reaches the terminal as a command to it."""

import sys
from collections.abc import Iterable, Sequence

import click


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; a column whose name begins with # is one of numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from audit.printable import printable

    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(
            column.removeprefix("#"),
            justify="right" if column.startswith("#") else "left",
            no_wrap=column not in ("patients", "what", "description", "purpose"),
            overflow="fold",
        )
    for row in rows:
        found.add_row(*(Text(printable(cell)) for cell in row))
    if title:
        click.echo(f"\n{title}")
    Console(width=None if sys.stdout.isatty() else 160).print(found)


def say(text: str) -> None:
    """Print a line of what the log says."""
    from audit.printable import printable

    click.echo(printable(text))


def minute(at: str, *, seconds: bool = False) -> str:
    """A time as a table shows it."""
    return at[: 19 if seconds else 16].replace("T", " ")


def few(names: Sequence[str], at_most: int = 3) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def many(count: int, one: str) -> str:
    """A number and what it counts: ``1 event``, ``2,000 events``."""
    more = one[:-1] + "ies" if one.endswith("y") else one + "s"
    return f"{count:,} {one if count == 1 else more}"
