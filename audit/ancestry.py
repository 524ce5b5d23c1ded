"""The ancestry of a model: every model, run and object that it was made from, and every manifest that those read."""

from dataclasses import dataclass

from audit.catalogue import Catalogue
from audit.errors import BadInput
from audit.rows import Model, Run


@dataclass(frozen=True)
class Ancestry:
    """What stands behind one model."""

    model: Model
    """The model itself."""
    models: tuple[Model, ...]
    """It and those that it was made from: export, alignment, training, a synthesizer, a warm start."""
    runs: tuple[Run, ...]
    """The runs that made them or what they learned from, oldest first."""
    objects: frozenset[str]
    """Every object that any of it was made from, patients' own included."""

    @property
    def roots(self) -> dict[str, tuple[str, ...]]:
        """Manifest roots, hex, with the runs and models that name each."""
        found: dict[str, list[str]] = {}
        for root, name in [(one.manifest_root, one.id) for one in self.runs] + [
            (one.manifest_root, one.id) for one in self.models
        ]:
            if root:
                found.setdefault(root, []).append(name)
        return {root: tuple(names) for root, names in sorted(found.items())}


def ancestry(catalogue: Catalogue, name: str) -> Ancestry:
    """The ancestry of a model.

    Args:
        catalogue: where to look.
        name: the model's id or that of its main file, or a beginning of either that is unique.

    Raises:
        BadInput: it names no model.
    """
    model = model_of(catalogue, name)
    models, runs, met = {model.id: model}, dict[str, Run](), set[str]()
    waiting = list(model.objects)
    owners: dict[str, list[Model]] = {}
    for made in catalogue.models():
        for one in made.objects:
            owners.setdefault(one, []).append(made)

    def behind(run: str) -> None:
        if run and run not in runs:
            runs[run] = catalogue.run(run)

    behind(model.run)
    above = model
    while above.parent_model and above.parent_model not in models:
        above = models[above.parent_model] = catalogue.model(above.parent_model)
        behind(above.run)
        waiting += above.objects
    while waiting:
        one = waiting.pop()
        if one in met:
            continue
        met.add(one)
        behind(str(catalogue.object(one).note.get("run", "")))
        waiting += catalogue.parents(one)
        for made in owners.get(one, ()):  # another model's file among the parents brings along what that came from
            if made.id not in models and made.objects[:1] == (one,) and made.created <= model.created:
                models[made.id] = made
                behind(made.run)
                waiting += (*made.objects, *(catalogue.model(made.parent_model).objects if made.parent_model else ()))
    in_order = sorted(runs.values(), key=lambda run: (run.created, run.id))
    return Ancestry(model, tuple(models.values()), tuple(in_order), frozenset(met))


def model_of(catalogue: Catalogue, name: str) -> Model:
    """The model of a name as `ancestry` takes it. Raises BadInput."""
    table, found = catalogue.find(name)
    if table == "models":
        return catalogue.model(found)
    owners = [model for model in catalogue.models() if model.objects[:1] == (found,)]
    if not owners:
        raise BadInput("this is no model, nor the main file of one", where=name, hint="cloche models lists them")
    return owners[-1]
