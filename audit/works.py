"""Runs, what they made, and models, as the events tell of them; patients' own objects are left out.

Each event names the run and the model that it belongs to. It lists an object's parents up to a limit, and beyond it
their count and root: there, the inputs of the run stand for them. `cloche audit trace` draws every line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from audit.events import Event
from audit.questions import Span, Spans, Use, Uses
from audit.reading import Logged
from audit.subject import kind_of, parents_of, text_of

_ENDS = {"run.finished": "finished", "run.failed": "failed"}


@dataclass
class RunSeen:
    """One run."""

    id: str
    """Id in the catalogue."""
    activity: str = ""
    """``synth``, ``train``, ``align``, ``export``, ``evaluate``, ``sign`` ..."""
    manifest: str = ""
    """Merkle root of its data set, hex."""
    user: str = ""
    """Who started it."""
    started: str = ""
    """When."""
    state: str = "running"
    """``running``, ``finished`` or ``failed``."""
    ended: str = ""
    """When; empty while it runs, or where it was cut off."""
    entry: int = 0
    """Where the log first names it."""
    inputs: list[str] = field(default_factory=list)
    """Objects that it started from."""
    outputs: list[str] = field(default_factory=list)
    """Shared objects that it stored."""


@dataclass(frozen=True)
class Made:
    """An object that belongs to no single patient: a packed data set, an adapter, a model file."""

    id: str
    """Object id."""
    kind: str
    """Kind, where its event names just one."""
    activity: str
    """What it was stored by."""
    run: str
    """The run that made it; empty where none did."""
    parents: tuple[str, ...]
    """What it was made from; empty where the list was too long for the event."""
    entry: int
    """Where it was stored."""
    at: str
    """When."""


@dataclass
class ModelSeen:
    """One model."""

    object: str
    """Id of its main file: the GGUF."""
    names: list[str] = field(default_factory=list)
    """Ids by which events call it."""
    objects: list[str] = field(default_factory=list)
    """All of its files."""
    runs: list[str] = field(default_factory=list)
    """Runs that its events name: evaluation, signing."""
    uses: Uses = field(default_factory=Uses)
    """Every event of the model's."""
    answers: Spans = field(default_factory=Spans)
    """Questions answered with it, by account."""


@dataclass(frozen=True)
class ModelAnswer:
    """What the log says of one model."""

    name: str
    """Its id, or its main file's where no event calls it otherwise."""
    objects: tuple[str, ...]
    """Ids of its files."""
    runs: tuple[RunSeen, ...]
    """Runs that it came out of and that measured or signed it, in order."""
    manifests: tuple[str, ...]
    """Merkle roots of the data sets of those runs."""
    made_from: tuple[Made, ...]
    """Shared objects in its ancestry, its own files included."""
    uses: tuple[Use, ...]
    """What was done with it: evaluations, signatures, exports, loads, answers."""
    answers: tuple[Span, ...]
    """Questions answered with it, by account."""


class Works:
    """Collects runs, shared objects and models in one pass. Its memory grows with those, not with records."""

    def __init__(self) -> None:
        self.runs: dict[str, RunSeen] = {}
        """By id."""
        self.made: dict[str, Made] = {}
        """By object id."""
        self.models: dict[str, ModelSeen] = {}
        """By main file."""
        self._by_name: dict[str, str] = {}  # model id -> main file

    def see(self, logged: Logged) -> None:
        """Take in one event; to be called in the log's order."""
        event = logged.event
        if event is None:
            return
        run = text_of(event, "run")
        if run:
            self._run(run, logged.sequence, event)
        if event.kind == "object.stored" and not event.patients:
            self._stored(run, logged.sequence, event)
        if event.kind.startswith("model.") or (text_of(event, "model") and not event.kind.startswith("audit.")):
            self._model(run, logged.sequence, event)

    def _run(self, name: str, sequence: int, event: Event) -> None:
        seen = self.runs.setdefault(name, RunSeen(name, event.activity, entry=sequence))
        if event.kind == "run.started":
            seen.activity, seen.manifest, seen.user = event.activity, text_of(event, "manifest"), event.actor.user
            seen.started, seen.inputs = event.at, list(event.objects)
        elif event.kind in _ENDS:
            seen.state, seen.ended = _ENDS[event.kind], event.at

    def _stored(self, run: str, sequence: int, event: Event) -> None:
        parents, kind = parents_of(event), kind_of(event)
        for name in event.objects:
            made = Made(name, kind, event.activity, run, tuple(parents.get(name, ())), sequence, event.at)
            self.made[name] = made
            if run in self.runs:
                self.runs[run].outputs.append(name)

    def _model(self, run: str, sequence: int, event: Event) -> None:
        name = text_of(event, "model")
        main = self._by_name.get(name) or (event.objects[0] if event.objects else name)
        if not main:
            return
        seen = self.models.setdefault(main, ModelSeen(main))
        if name:
            self._by_name[name] = main
            _add(seen.names, name)
        for one in event.objects:
            _add(seen.objects, one)
        if run and event.kind.startswith("model."):
            _add(seen.runs, run)
        seen.uses.add(sequence, event)
        if event.kind == "question.answered":
            seen.answers.add(event.actor.user, sequence, event.at)

    def ancestry(self, model: ModelSeen) -> tuple[dict[str, Made], list[RunSeen]]:
        """Shared objects that a model was made from, and the runs behind them, both in the log's order."""
        found: dict[str, Made] = {}
        waiting, runs = list(model.objects), set(model.runs)
        while waiting:
            made = self.made.get(waiting.pop())
            if made is None or made.id in found:
                continue
            found[made.id] = made
            waiting += made.parents
            if made.run in self.runs and made.run not in runs:
                runs.add(made.run)
                waiting += self.runs[made.run].inputs
        in_order = sorted(found.values(), key=lambda one: one.entry)
        return {one.id: one for one in in_order}, sorted(
            (self.runs[run] for run in runs if run in self.runs), key=lambda run: run.entry
        )

    def answer(self, model: ModelSeen) -> ModelAnswer:
        """What was seen of one model."""
        made, runs = self.ancestry(model)
        manifests = tuple(dict.fromkeys(run.manifest for run in runs if run.manifest))
        name = model.names[0] if model.names else model.object
        return ModelAnswer(
            name,
            tuple(model.objects),
            tuple(runs),
            manifests,
            tuple(made.values()),
            model.uses.groups(),
            model.answers.found(),
        )

    def named(self, name: str) -> list[ModelSeen]:
        """Models that are called so, own such a file, or came out of such a run; a beginning of 4 letters will do."""

        def means(known: str) -> bool:
            return known == name or (len(name) >= 4 and known.startswith(name))

        return [model for model in self.models.values() if any(map(means, [*model.names, *model.objects, *model.runs]))]


def about_model(events: Iterable[Logged], name: str) -> list[ModelAnswer]:
    """What the log says of the models that a name, a file's id or a run's id means; most often one or none."""
    works = Works()
    for logged in events:
        works.see(logged)
    return [works.answer(model) for model in works.named(name)]


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
