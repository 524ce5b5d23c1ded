"""The data steward's commands: from an empty directory to a signed model, one stage a command."""

from pathlib import Path

import click

from appliance.cli.desk import DRY, MODEL, desk_of
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault, read_passphrase
from appliance.starter.where import STARTER

_QUESTIONS = click.option(
    "--questions",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSONL file of closed questions: image, text, choices, answer.",
)


@click.command()
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key file of someone who may read the log; two at least.",
)
@json_option
@click.pass_obj
def init(settings: Settings, recipients: tuple[Path, ...]) -> None:
    """Make an appliance: keys, encrypted vault, audit log.

    The recipients' keys are made elsewhere with `cloche audit keygen`; only their public halves come here.

    \b
    Examples:
      cloche init --recipient auditor.pub --recipient recovery.pub
      cloche --home /srv/cloche init --recipient auditor.pub --recipient recovery.pub
    """
    from audit.home import PIN
    from audit.keys import Recipient
    from audit.vault import Vault

    known = [Recipient.load(path) for path in recipients]
    with Vault.create(settings.home, read_passphrase(confirm=True), known) as vault:
        readers = [r.name for r in vault.recipients]
    pin = (settings.home / PIN).read_text().strip()
    emit(
        settings,
        {"home": str(settings.home), "recipients": readers, "log_key": pin},
        f"made {settings.home}; the log can be read by {', '.join(readers)}\n"
        f"the log's public key, which the compliance officer keeps: {pin}\nnext: cloche ingest SOURCE",
    )


@click.command()
@click.option(
    "--synthesizer",
    type=click.Path(path_type=Path),
    default=STARTER,
    help="Model directory that writes. Default: the starter.",
)
@click.option(
    "--judge",
    type=click.Path(path_type=Path),
    default=STARTER,
    help="Model directory or GGUF file that judges. Default: the starter.",
)
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Dialogues an image.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="Of the dialogues; 0 is greedy."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N records.")
@DRY
@json_option
@click.pass_obj
def synth(
    settings: Settings,
    synthesizer: Path,
    judge: Path,
    samples: int,
    temperature: float,
    limit: int | None,
    dry_run: bool,
) -> None:
    """Turn captions into questions and answers, keep what the judge finds consistent.

    \b
    Examples:
      cloche synth
      cloche synth --synthesizer /models/Qwen2-VL-2B-Instruct --judge /models/judge.gguf --limit 100
    """
    from appliance.jobs.common import training_records
    from appliance.jobs.synthesise import Writers, synthesise
    from synth.pipeline import SynthConfig

    with open_vault(settings, "steward") as opened, desk_of(opened, "synthesising") as desk:
        if dry_run:
            count = len(training_records(desk)[:limit])
            emit(
                settings,
                {"images": count, "dialogues": count * samples},
                f"would write {count * samples} dialogues about {count} images",
            )
            return
        run = synthesise(
            desk, Writers(synthesizer, judge), SynthConfig(samples=samples, temperature=temperature), limit
        )
    figures = {k: run.result[k] for k in ("pairs", "tasks", "reasons")}
    emit(
        settings,
        {"run": run.id, **figures},
        f"{run.id}: {figures['tasks']} tasks from {figures['pairs']} images\n"
        + "\n".join(f"  {k:16} {v}" for k, v in figures["reasons"].items())
        + "\nnext: cloche train",
    )


@click.command()
@MODEL
@click.option(
    "--quantisation",
    type=click.Choice(["Q8_0", "Q5_K_M", "Q4_K_M"]),
    default="Q8_0",
    show_default=True,
    help="Of the language model; vision is f16.",
)
@_QUESTIONS
@DRY
@json_option
@click.pass_obj
def export(settings: Settings, model_dir: Path, quantisation: str, questions: Path | None, dry_run: bool) -> None:
    """Make the candidate GGUF: merge, convert, quantise, and compare with transformers answer by answer.

    \b
    Examples:
      cloche export
      cloche export --quantisation Q5_K_M --questions held-out.jsonl
    """
    from appliance.jobs.common import latest_adapter
    from appliance.jobs.export import ExportConfig
    from appliance.jobs.export import export as run_export
    from appliance.jobs.questions import prompts_of, read_questions
    from train.models.directory import family_of

    with open_vault(settings, "steward") as opened, desk_of(opened, "exporting") as desk:
        fit = family_of(model_dir).fitted
        suite = read_questions(desk, questions) if questions else None
        prompts = prompts_of(desk, suite, fit)
        if dry_run:
            adapter = latest_adapter(desk)
            emit(
                settings,
                {"adapter": adapter.id, "quantisation": quantisation, "prompts": len(prompts)},
                f"would merge {adapter.id} into {model_dir}, quantise to {quantisation} and compare "
                f"{len(prompts)} answers",
            )
            return
        run = run_export(desk, model_dir, ExportConfig(quantisation), prompts)
    said = "\n".join(
        f"  {k:7} same answer {p['same_answers']} of {p['n']}, logit cosine {p['cosine_mean']:.6f}"
        for k, p in run.result["parity"].items()
    )
    emit(
        settings,
        {"run": run.id, **run.result},
        f"{run.id}: candidate {run.result['model']}\n{said}\nnext: cloche evaluate --questions FILE",
    )


@click.command()
@MODEL
@_QUESTIONS
@click.option(
    "--general", "drawn", type=click.IntRange(0), default=300, show_default=True, help="Questions of the general suite."
)
@DRY
@json_option
@click.pass_obj
def evaluate(settings: Settings, model_dir: Path, questions: Path | None, drawn: int, dry_run: bool) -> None:
    """Measure base and candidate GGUF, check the gates, and sign the candidate if it passes them.

    Exit code 5 where a gate was not passed: the candidate stays unsigned.

    \b
    Examples:
      cloche evaluate --questions held-out.jsonl
      cloche evaluate --questions held-out.jsonl --json
    """
    if questions is None:
        raise click.UsageError("name the questions to measure by: --questions FILE")
    from appliance.jobs.common import latest
    from appliance.jobs.measure import Gates, measure, sign_candidate
    from appliance.jobs.questions import general, opener, read_questions
    from train.models.directory import family_of

    with open_vault(settings, "steward") as opened, desk_of(opened, "evaluating") as desk:
        suites = [read_questions(desk, questions), *([general(drawn)] if drawn else [])]
        exported = latest(desk, "export")
        if dry_run:
            asked = {suite.name: len(suite.items) for suite in suites}
            each = ", ".join(f"{count} {name}" for name, count in asked.items())
            emit(
                settings,
                {"candidate": exported.result["model"], "questions": asked},
                f"would ask base and candidate {exported.result['model']}: {each} questions",
            )
            return
        run = measure(desk, exported, suites, family_of(model_dir).fitted, Gates(), opener)
        signed = sign_candidate(desk, exported, run, model_dir)
    rows = [
        f"  {name:10} {f['base']['strict']['mean']:6.1%} -> {f['candidate']['strict']['mean']:6.1%}"
        f"  (n = {f['n']}, p = {f['mcnemar']:.1e})"
        for name, f in run.result["figures"].items()
    ]
    emit(
        settings,
        {"run": run.id, **run.result, "signed": signed.result},
        "\n".join((f"{run.id}: signed {signed.result['model']}", *rows)) + '\nnext: cloche ask IMAGE "question"',
    )
