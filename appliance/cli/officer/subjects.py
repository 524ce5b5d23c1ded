"""`cloche audit patient`, `user` and `model`: everything that the log says about one of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from appliance.cli.officer.reading import Source, reading, source
from appliance.cli.officer.tables import few, many, minute, say, table
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.patient import PatientAnswer
    from audit.questions import Span, Use, UserAnswer
    from audit.works import ModelAnswer, RunSeen

_USES = ("what", "part of", "who", "purpose", "#events", "first (UTC)", "last (UTC)", "#first", "#last")


@click.command()
@click.argument("patient")
@source
@json_option
@click.pass_obj
def patient(settings: Settings, patient: str, source: Source) -> None:
    """Tell everything about one patient: who used the data, for what, and which models learned from it.

    PATIENT is the appliance's pseudonym; identities that were linked with it are one patient. An event counts as the
    patient's where it names the patient, or a record or object of the patient's alone. Samples and models are followed
    by what the log says they were made from, and by the runs that stored them: where it could be either way, they are
    listed.

    \b
    Examples:
      cloche audit patient P-7Q2MZKX3RA --key auditor.key
      cloche audit patient P-7Q2MZKX3RA carried.sqlite --key auditor.key --key-pin log.pub --json
    """
    from audit.patient import about_patient
    from audit.subject import identities

    with reading(settings, source, {"command": "patient", "patient": patient}) as found:
        answer = about_patient(found.events(), *identities(found.events(), patient))
        if settings.as_json:
            emit(settings, asdict(answer), "")
        elif not answer.events:
            say(f"There is no event about {patient} in this log.")
        else:
            _tell_patient(answer)


@click.command()
@click.argument("user")
@source
@json_option
@click.pass_obj
def user(settings: Settings, user: str, source: Source) -> None:
    """Tell what one person did: how often, in which role, for what purpose, with whose data.

    USER is the name of the account, as the operating system knows it.

    \b
    Examples:
      cloche audit user ada --key auditor.key
      cloche audit user ada carried.sqlite --key auditor.key --json
    """
    from audit.questions import about_user

    with reading(settings, source, {"command": "user", "actor": user}) as found:
        answer = about_user(found.events(), user)
        if settings.as_json:
            emit(settings, asdict(answer), "")
        elif not answer.events:
            say(f"There is no event of {user}'s in this log.")
        else:
            _tell_user(answer)


@click.command()
@click.argument("model")
@click.option("--records", is_flag=True, help="List the records and patients in its ancestry instead.")
@source
@json_option
@click.pass_obj
def model(settings: Settings, model: str, records: bool, source: Source) -> None:
    """Tell where a model came from and what was done with it: runs, data sets, evaluations, exports, questions.

    MODEL is its id, the id of one of its files, or of a run that measured or signed it; a beginning of 4 letters will
    do. The log does not list every parent of a large data set; `cloche audit trace` on the appliance does.

    \b
    Examples:
      cloche audit model model-8sdqk2mz7p --key auditor.key
      cloche audit model model-8sdq carried.sqlite --key auditor.key --json
      cloche audit model model-8sdq --records --key auditor.key
    """
    from audit.works import about_model

    if records:
        _members(settings, model, source)
        return
    with reading(settings, source, {"command": "model", "model": model}) as found:
        answers = about_model(found.events(), model)
        if settings.as_json:
            emit(settings, [asdict(answer) for answer in answers], "")
        elif not answers:
            say(f"There is no event about a model {model} in this log.")
        for answer in () if settings.as_json else answers:
            _tell_model(answer)


def _members(settings: Settings, model: str, source: Source) -> None:
    """Whose records are in a model's ancestry, and in how many steps."""
    from audit.members import members_of

    with reading(settings, source, {"command": "model", "model": model, "records": True}) as found:
        told = members_of(found.events(), model)
        if settings.as_json:
            emit(settings, [asdict(one) for one in told], "")
            return
        if not told:
            say(f"There is no event about a model {model} in this log.")
        for one in told:
            say(f"{one.model}: {many(len(one.members), 'record')} of {many(len(one.patients), 'patient')}")
            rows = [(m.patient, m.record, few(m.runs), f"{m.steps:,}") for m in one.members]
            if rows:
                table(("patient", "record", "runs that read it", "#steps"), rows)


def _tell_patient(answer: "PatientAnswer") -> None:
    say(f"{answer.patient}: {many(answer.events, 'event')}, {many(len(answer.records), 'record')}")
    _uses(f"What was done with the patient's data ({many(answer.events, 'event')})", answer.uses)
    if answer.records:
        rows = [(r.id, minute(r.at), r.user, r.split, few(r.objects), f"{r.entry:,}") for r in answer.records]
        table(("record", "came in (UTC)", "by", "split", "parts", "#entry"), rows, "Records")
    if answer.samples:
        rows = [(m.id, m.kind, m.activity, m.run, minute(m.at), f"{m.entry:,}") for m in answer.samples]
        columns = ("object", "kind", "part of", "run", "stored (UTC)", "#entry")
        table(columns, rows, "Shared objects that hold something of it, or may")
    _uses("What was done with those", answer.indirect)
    if answer.runs:
        used = [(*_run(use.run), "learned" if use.learned else "measured", f"{use.entries:,}") for use in answer.runs]
        table((*_RUN, "it", "#entries"), used, "Runs that used the data")
    for one in answer.models:
        click.echo()
        say(f"Model {one.name}: the data is in its ancestry")
        _spans("questions answered with it, by", one.answers)
    if not answer.models:
        click.echo("\nNo model in this log has the data in its ancestry.")


def _tell_user(answer: "UserAnswer") -> None:
    say(f"{answer.user}: {many(answer.events, 'event')}, {many(answer.failures, 'failure')} or refusals")
    _spans("role", answer.roles, "Roles")
    _uses("What was done", answer.uses)
    _spans("patient", answer.patients, "Patients whose data it was")


def _tell_model(answer: "ModelAnswer") -> None:
    say(f"Model {answer.name}")
    for root in answer.manifests:
        say(f"  data set {root}")
    if answer.runs:
        table((*_RUN, "data set"), [(*_run(run), run.manifest[:12]) for run in answer.runs], "Runs")
    rows = [(m.id, m.kind, m.activity, m.run, minute(m.at), f"{m.entry:,}") for m in answer.made_from]
    if rows:
        table(("object", "kind", "part of", "run", "stored (UTC)", "#entry"), rows, "Made from, and made of")
    _uses("What was done with it", answer.uses)
    _spans("questions answered with it, by", answer.answers)


_RUN = ("run", "part of", "started (UTC)", "by", "state", "ended (UTC)")


def _run(run: "RunSeen") -> tuple[str, ...]:
    return (run.id, run.activity, minute(run.started), run.user, run.state, minute(run.ended))


def _uses(title: str, uses: "Sequence[Use]") -> None:
    if not uses:
        return
    rows = [
        (
            use.kind if use.outcome == "success" else f"{use.kind} ({use.outcome})",
            use.activity,
            f"{use.user} ({use.role})",
            use.purpose,
            f"{use.count:,}",
            minute(use.first_at),
            minute(use.last_at),
            f"{use.first_entry:,}",
            f"{use.last_entry:,}",
        )
        for use in uses
    ]
    table(_USES, rows, title)


def _spans(what: str, spans: "Sequence[Span]", title: str = "") -> None:
    if not spans:
        return
    rows = [
        (s.name, f"{s.count:,}", minute(s.first_at), minute(s.last_at), f"{s.first_entry:,}", f"{s.last_entry:,}")
        for s in spans
    ]
    table((what, "#events", "first (UTC)", "last (UTC)", "#first", "#last"), rows, title)
