"""Write docs/commands.md from the commands' own help: `python -m appliance.cli.reference`, or `make docs`."""

from collections.abc import Iterator

import click

from appliance.cli.main import COMMANDS, cli

WIDTH = 100
"""Columns of a help page in the document, whatever the terminal is."""
HEAD = """# Commands

Every page below is what `cloche COMMAND --help` prints; `make docs` writes this file and a test compares it.
`--home` and `--json` stand before the command's name; where a page lists `--json`, it may stand after it too.

Exit codes: 0 done, 1 bug, 2 usage, 3 refused or bad input, 4 integrity failure, 5 gate failed, 6 environment,
130 stopped by Ctrl-C, 141 the reader of a pipe went away.
"""


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Each command under `command` with its whole name, groups before what they hold."""
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from walk(below, _context(below, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    like_real = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **like_real)


def every_command() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Each command of `cloche`, the root first."""
    yield from walk(cli, _context(cli, "cloche", None))


def page() -> str:
    """The whole document."""
    parts = [HEAD]
    for name, command, context in every_command():
        person = f"For: {COMMANDS[name.split()[1]].heading}.\n\n" if " " in name else ""
        parts.append(f"## {name}\n\n{person}```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(page(), nl=False)
