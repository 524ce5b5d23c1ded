"""What every command shares: `--json` after its name, and one way to print for a program or for a person."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import click

from appliance.settings import Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def json_option(function: Decorated) -> Decorated:
    """Let `--json` stand after the command's name too (`cloche status --json`); stands below `@click.command()`."""

    def switch(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            ctx.obj = replace(ctx.obj, as_json=True)

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=switch, help="Print data for a program on stdout."
    )(function)


def emit(settings: Settings, data: Mapping[str, Any] | Sequence[Any], text: str) -> None:
    """Print `data` as JSON when a program asked for it, else `text`; nothing else ever goes to stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, sort_keys=False) if settings.as_json else text)
