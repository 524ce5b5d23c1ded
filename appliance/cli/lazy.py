"""A group of commands that imports none of them until one runs, so that a list of help answers at once."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Entry:
    """One command in a table of contents."""

    where: str
    """Module and attribute, `package.module:name`."""
    heading: str
    """What it stands under in the group's help."""
    says: str
    """One line of help, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports each only when it is needed."""

    def __init__(self, *args: Any, contents: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.contents = contents
        """Every command, in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.contents)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.contents.get(cmd_name)
        return None if entry is None else load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(entry.heading for entry in self.contents.values()):
            with formatter.section(heading):
                formatter.write_dl([(name, one.says) for name, one in self.contents.items() if one.heading == heading])


def load(entry: Entry) -> click.Command:
    """Import the command that `entry` names."""
    module, _, attribute = entry.where.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command), f"{entry.where} is not a command"  # noqa: S101 a bug of ours, not input
    return command
