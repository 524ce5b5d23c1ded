"""`cloche audit trace`: the lineage of one thing, out of the catalogue."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.lineage import Node
    from audit.lineage_svg import Answer


_FILE = click.Path(path_type=Path, dir_okay=False)
_ANSWER = re.compile("answer-([0-9]{1,18})")


@click.command()
@click.argument("name", metavar="RECORD|OBJECT|MODEL|ANSWER")
@click.option("--svg", type=_FILE, metavar="OUT", help="Draw the lineage of a model or an answer, as a picture.")
@click.option("--key", "key_file", type=_FILE, help="Your private key file: only with it can an ANSWER be looked up.")
@json_option
@click.pass_obj
def trace(settings: Settings, name: str, svg: Path | None, key_file: Path | None) -> None:
    """Show what a record became, and what a model, an object or an answer was made from.

    A beginning of the id is enough where it is unique. It reads the catalogue, needs no passphrase and shows no data.
    An answer is named as `cloche ask` named it; which model gave it stands in the log alone, so that takes a
    recipient's key, and that it was read is an event. The picture names patients by their pseudonyms.

    \b
    Examples:
      cloche audit trace rec-k3v8q2mz7p
      cloche audit trace model-8sdq --json
      cloche audit trace model-8sdq --svg lineage.svg
      cloche audit trace answer-187 --key auditor.key --svg lineage.svg
    """
    from audit.ancestry import ancestry
    from audit.catalogue import Catalogue
    from audit.errors import Refused
    from audit.home import CATALOGUE, check
    from audit.lineage import trace as trace_lineage
    from audit.lineage_svg import draw
    from audit.newfile import new_file

    check(settings.home)
    if svg is not None and (svg.exists() or svg.is_symlink()):  # before anything is logged
        raise Refused("the file exists already", where=str(svg), hint="name another, or move it away")
    answer, model = _answered(settings, name, key_file) if _ANSWER.fullmatch(name) else (None, name)
    catalogue = Catalogue(settings.home / CATALOGUE)
    try:
        lineage = trace_lineage(catalogue, model)
        drawn = draw(catalogue, ancestry(catalogue, model), answer) if svg is not None else ""
    finally:
        catalogue.close()
    if svg is not None:
        with new_file(svg) as file:
            file.write(drawn.encode())
        click.echo(f"drawn: {svg}", err=True)
    lines = ["made from", *_tree(lineage.origins), "", "became", *_tree(lineage.results)]
    emit(settings, lineage.to_dict(), "\n".join(lines))


def _answered(settings: Settings, name: str, key_file: Path | None) -> "tuple[Answer, str]":
    """The answer of this name, out of the log, and the model that gave it."""
    from appliance.cli.officer.reading import Source, reading
    from audit.errors import BadInput
    from audit.lineage_svg import Answer
    from audit.subject import text_of

    if key_file is None:
        raise BadInput("which model gave an answer stands in the log alone", where=name, hint="add --key auditor.key")
    number = int(name.removeprefix("answer-"))
    found = None
    with reading(settings, Source(None, None, None, key_file), {"command": "trace", "answer": name}) as log:
        for logged in log.events():
            if logged.sequence == number and logged.event and logged.event.kind == "question.answered":
                found = logged.event
    if found is None:
        raise BadInput("the log holds no such answer", where=name, hint="cloche audit show --kind question.answered")
    digests = tuple(
        f"{key} {text_of(found, key)[:12]}" for key in ("question", "answer", "gguf") if text_of(found, key)
    )
    return Answer(name, found.at, f"{found.actor.user} ({found.actor.role})", digests), text_of(found, "model")


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
