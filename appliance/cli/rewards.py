"""`cloche rewards`: what rewards pay for, and what an answer would earn. Nothing of an answer is kept or logged."""

from pathlib import Path
from typing import Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.cli.told import told
from appliance.settings import Settings

_HEADING = "Commands"
COMMANDS: dict[str, Entry] = {
    "list": Entry("appliance.cli.rewards:list_", _HEADING, "List the rewards and what each pays for."),
    "try": Entry("appliance.cli.rewards:try_", _HEADING, "Say what an answer would earn, and why."),
    "check": Entry("appliance.cli.rewards:check", _HEADING, "Read a rules file and say its rules as sentences."),
}
"""What can be done about rewards."""


@click.command(cls=LazyGroup, contents=COMMANDS)
def rewards() -> None:
    """Say what the rewards of `cloche align` pay for; try them and domain rules. docs/rewards.md explains them."""


@click.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the rewards: how each is typed and what it pays for.

    \b
    Examples:
      cloche rewards list
      cloche rewards list --json
    """
    from train.rl.rewards import KINDS

    rows = [{"name": name, "typed": kind.spelt, "pays": kind.pays} for name, kind in KINDS.items()]
    emit(settings, rows, "\n".join(f"{r['typed']:20} {r['pays']}" for r in rows))


@click.command("try")
@click.option("--question", default="", help="What was asked; - reads a line of standard input.")
@click.option("--reference", default="", help="The answer that is wanted; - reads a line of standard input.")
@click.option("--answer", required=True, help="The answer to judge; - reads what is left of standard input.")
@click.option(
    "--rules", "file", type=click.Path(path_type=Path, dir_okay=False), help="A rules file; each rule is told."
)
@click.option("--reward", "specs", multiple=True, help="A reward of `cloche rewards list`; several may be given.")
@json_option
@click.pass_obj
def try_(
    settings: Settings, question: str, reference: str, answer: str, file: Path | None, specs: tuple[str, ...]
) -> None:
    """Say what an answer would earn, from each reward and by each rule, and why. Nothing is kept or logged.

    A command line can be seen by others on this machine: give a patient's answer on standard input, with a dash.

    \b
    Examples:
      cloche rewards try --question "Which side?" --reference left --answer "On the left." --rules rules.toml
      cloche rewards try --question "How large?" --reference "12 mm" --answer "1.2 cm" --reward number:0.1
      cloche rewards try --question - --reference - --answer - --json
    """
    from audit.printable import printable
    from train.rl.rewards import Case, combined
    from train.rl.rules.file import read_rules

    question, reference, answer = told(question, reference, answer)
    case = Case(question, reference, answer)
    chosen = combined(specs or ("exact", "closed", "token_f1", "rouge_l", "number", "brevity"))
    if file is not None:
        chosen = (*chosen, *combined((f"rules:{file}",)))
    rows: list[dict[str, Any]] = []
    for one in chosen:
        found = one.judge(case)
        rows.append({"reward": one.name, "score": found.score, "why": found.why})
    for rule in read_rules(file).rules if file else ():
        said = rule.judge(question, reference, answer)
        rows.append({"rule": rule.name, "score": said.score, "why": said.why})
    lines = [
        f"{'  -  ' if r['score'] is None else format(r['score'], '5.2f')}  "
        f"{'rule ' + r['rule'] if 'rule' in r else r['reward']}: {r['why']}"
        for r in rows
    ]
    emit(settings, rows, "\n".join(printable(line) for line in lines))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_obj
def check(settings: Settings, file: Path) -> None:
    """Read a rules file and say each rule as a sentence, for who reviews it. Changes nothing.

    \b
    Examples:
      cloche rewards check rules.toml
    """
    from audit.printable import printable
    from train.rl.rules.file import read_rules

    found = read_rules(file)
    rows = [{"name": r.name, "says": r.told(), "when": list(r.when), "because": r.because} for r in found.rules]
    lines = [f"{found.title or file.name}: {len(rows)} rules, {found.reviewed_by or 'nobody'} has reviewed them"]
    for r in found.rules:
        asked = f" (asked about {' / '.join(r.when)})" if r.when else ""
        lines.append(f"  {r.name}: {r.told()}{asked}{'; because ' + r.because if r.because else ''}")
    data = {"title": found.title, "reviewed_by": found.reviewed_by, "rules": rows}
    emit(settings, data, "\n".join(printable(line) for line in lines))
