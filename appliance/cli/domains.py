"""`cloche domains`: what a domain's table does to a question, for the person who has to stand for it."""

from typing import TYPE_CHECKING, Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.cli.told import shown, told
from appliance.settings import Settings

if TYPE_CHECKING:
    from train.rl.table import Rule

_HEADING = "Commands"
COMMANDS: dict[str, Entry] = {
    "list": Entry("appliance.cli.domains:list_", _HEADING, "List the tables that come with Cloche."),
    "show": Entry("appliance.cli.domains:show", _HEADING, "Say what a table declares, word by word."),
    "check": Entry("appliance.cli.domains:check", _HEADING, "Read a table; say what it does to a question."),
}
"""What can be done about domains."""
_TABLE = click.argument("table", metavar="NAME|FILE")


@click.command(cls=LazyGroup, contents=COMMANDS)
def domains() -> None:
    """Say what may be done to a domain's pictures without making an answer wrong: mirrors, turns, and their gates.

    \b
    Examples:
      cloche domains list
      cloche domains show brain-mri
      cloche domains check brain-mri --question "Is the lesion on the left?"
    """


@click.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the tables that come with Cloche.

    \b
    Examples:
      cloche domains list
      cloche domains list --json
    """
    from train.rl.table import built_in, table_of

    found = [table_of(name) for name in built_in()]
    data = [{"name": t.name, "title": t.title, "transforms": [r.kind.name for r in t.rules]} for t in found]
    emit(settings, data, "\n".join(f"{d['name']:16} {d['title']:32} {', '.join(d['transforms'])}" for d in data))


@click.command()
@_TABLE
@click.option("--toml", "as_toml", is_flag=True, help="Print the file itself, to start your own from.")
@json_option
@click.pass_obj
def show(settings: Settings, table: str, as_toml: bool) -> None:
    """Say what a table declares: its transforms, the words they swap, and what keeps a conversation out.

    \b
    Examples:
      cloche domains show brain-mri
      cloche domains show chest-xray --toml > our-chest.toml
    """
    from train.rl.table import table_of

    found = table_of(table)
    if as_toml and not settings.as_json:
        click.echo(shown(found.text), nl=False)
        return
    data = {"name": found.name, "title": found.title, "asks": found.asks, "transforms": [_data(r) for r in found.rules]}
    lines = [f"{found.name}: {found.title}", f"questions ask for: {', '.join(found.asks) or 'no position'}"]
    alike: dict[Any, list[Rule]] = {}
    for rule in found.rules:
        alike.setdefault((rule.swap, rule.gates, rule.force), []).append(rule)
    emit(settings, data, shown("\n".join([*lines, *(line for rules in alike.values() for line in _lines(rules))])))


@click.command()
@_TABLE
@click.option("--question", default="", help="A question to try the table on; - reads a line of standard input.")
@click.option("--answer", default="", help="An answer to try with it; - reads what is left of standard input.")
@json_option
@click.pass_obj
def check(settings: Settings, table: str, question: str, answer: str) -> None:
    """Read a table; say what each of its transforms does to a question and its answer, and why.

    Swapped: asked of the transformed picture with its words exchanged. Kept: asked as it stands. Gated: left out of the
    constraint. A model's tokenizer can leave out more: words that are not one token each. Needs no appliance.
    A command line can be seen by others on this machine: give what is a patient's on standard input, with a dash.

    \b
    Examples:
      cloche domains check our-chest.toml
      cloche domains check brain-mri --question "Is the lesion on the left?"
      cloche domains check retina --question "Which eye is it?" --answer "OD" --json
      cloche domains check brain-mri --question - --answer -
    """
    from dataclasses import asdict

    from audit.printable import printable
    from train.rl.table import table_of

    found = table_of(table)
    question, answer = told(question, answer)
    data: dict[str, Any] = {"name": found.name, "forced": found.forced, "transforms": len(found.rules)}
    lines = [f"{found.name}: the table is well, {len(found.rules)} transforms"]
    if found.forced:
        lines.append("forced: it puts on transforms that need not keep answers right; for a control experiment only")
    if question or answer:
        verdicts = {rule.kind.name: rule.judge(question, answer) for rule in found.rules}
        data["verdicts"] = {name: asdict(one) for name, one in verdicts.items()}
        for name, one in verdicts.items():
            lines.append(f"{name:14} {one.outcome:8} {one.why}")
            if one.outcome == "swapped":
                lines += [f"{'':23} {text}" for text in (one.question, one.answer) if text]
    emit(settings, data, "\n".join(printable(line) for line in lines))


def _data(rule: "Rule") -> dict[str, Any]:
    gates = [{"words": gate.words, "in": gate.place, "why": gate.why} for gate in rule.gates]
    return {"kind": rule.kind.name, "swap": rule.swap, "gates": gates, "force": rule.force}


def _lines(rules: "list[Rule]") -> list[str]:
    """Transforms that are declared alike, for a person to read."""
    rule, kinds = rules[0], ", ".join(one.kind.name for one in rules)
    swaps = ", ".join(f"{one} with {other}" for one, other in rule.swap) or "no words"
    lines = ["", f"{kinds}{' (forced)' if rule.force else ''}: swaps {swaps}"]
    for gate in rule.gates:
        where = "the question or the answer" if gate.place == "both" else f"the {gate.place}"
        lines += [f"  left out, {gate.why}:", f"    in {where}: {', '.join(gate.words)}"]
    return lines
