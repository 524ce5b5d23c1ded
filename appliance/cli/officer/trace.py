"""`cloche audit trace`: the lineage of one thing, out of the catalogue."""

from typing import TYPE_CHECKING

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.lineage import Node


@click.command()
@click.argument("name", metavar="RECORD|OBJECT|MODEL")
@json_option
@click.pass_obj
def trace(settings: Settings, name: str) -> None:
    """Show what a record became, and what a model or an object was made from.

    A beginning of the id is enough where it is unique. It reads the catalogue, needs no passphrase and shows no data.

    \b
    Examples:
      cloche audit trace rec-k3v8q2mz7p
      cloche audit trace model-8sdq --json
    """
    from audit.catalogue import Catalogue
    from audit.home import CATALOGUE, check
    from audit.lineage import trace as trace_lineage

    check(settings.home)
    catalogue = Catalogue(settings.home / CATALOGUE)
    try:
        lineage = trace_lineage(catalogue, name)
    finally:
        catalogue.close()
    lines = ["made from", *_tree(lineage.origins), "", "became", *_tree(lineage.results)]
    emit(settings, lineage.to_dict(), "\n".join(lines))


def _tree(top: "Node") -> list[str]:
    """A tree of lineage in lines."""
    lines: list[str] = []

    def add(node: "Node", lead: str, mark: str, below: str) -> None:
        facts = [node.patient, node.created[:19].replace("T", " "), "see above" if node.repeated else ""]
        lines.append(f"{lead}{mark}{node.kind} {node.id}  {'  '.join(filter(None, facts))}".rstrip())
        last = len(node.relatives) - 1
        for i, relative in enumerate(node.relatives):
            end = i == last and not node.left_out
            add(relative, lead + below, "└─ " if end else "├─ ", "   " if end else "│  ")
        if node.left_out:
            lines.append(f"{lead}{below}└─ and {node.left_out:,} more")

    add(top, "", "", "")
    return lines
