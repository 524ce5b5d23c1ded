"""Stages: base and candidate GGUF on held-out patients and on the general suite, the gates, and the signature."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from appliance.jobs.common import RESEARCH, Desk, as_config, begin, finish
from appliance.jobs.workdir import workdir
from audit.errors import GateFailed
from audit.events import Event
from audit.rows import Run
from train.evaluation.answerers import GgufAnswerer
from train.evaluation.run import Item, Result, evaluate, majority
from train.evaluation.statistics import mcnemar
from train.gguf.engine import Engine
from train.gguf.files import digest_of
from train.gguf.manifest import Manifest, entries, public_key_text, sign


@dataclass(frozen=True)
class Suite:
    """Questions with the images that they are about."""

    name: str
    """``held-out`` or ``general``."""
    items: tuple[Item, ...]
    """The questions."""
    image: Callable[[str], Image.Image]
    """Opens an image by the items' image id."""
    objects: tuple[str, ...] = ()
    """Vault objects that the images come from; their use is logged."""


@dataclass(frozen=True)
class Gates:
    """Bounds that a candidate must keep."""

    worse: float = 0.0
    """Points of accuracy on held-out patients that it may fall below the base."""
    forgetting: float = 5.0
    """Points that the general suite may fall."""


def measure(
    desk: Desk,
    exported: Run,
    suites: Sequence[Suite],
    fit: Callable[[Image.Image], Image.Image],
    gates: Gates,
    open_images: Callable[[Any, Suite], Callable[[str], Image.Image]],
) -> Run:
    """Ask base and candidate everything; also the candidate with blank images on the first suite.

    Args:
        fit: brings an image to the size that the models were trained with.
        open_images: the image opener of a suite, given what the vault opened.
    """
    config = as_config(gates, export=exported.id, suites={s.name: len(s.items) for s in suites})
    run = begin(desk, "evaluate", config, 0, exported.manifest_root, [exported.result["gguf"]])
    if run.state == "done":
        return run
    ids = [exported.result[k] for k in ("gguf", "mmproj", "base_gguf")]
    images = [o for s in suites for o in s.objects]
    results: dict[str, dict[str, Result]] = {}
    with desk.vault.use([*ids, *images], RESEARCH, desk.actor, "evaluate", {"run": run.id}) as opened:
        mmproj = opened.read(ids[1])
        for model, object_id in (("base", ids[2]), ("candidate", ids[0])):
            with Engine(opened.read(object_id), mmproj) as engine:
                answerer = GgufAnswerer(engine, fit)
                for suite in suites:
                    results.setdefault(suite.name, {})[model] = evaluate(
                        answerer, suite.items, open_images(opened, suite), desk.progress
                    )
                if model == "candidate":
                    first = suites[0]
                    results[first.name]["blank"] = evaluate(
                        answerer, first.items, lambda _: Image.new("RGB", (256, 256), "white"), desk.progress
                    )
    figures = {name: summary(suites[i].items, found) for i, (name, found) in enumerate(results.items())}
    log = {
        name: {
            m: [[s.item.id, s.item.text, s.item.answer, s.said, s.strict] for s in r.scored] for m, r in found.items()
        }
        for name, found in results.items()
    }
    answers = desk.vault.put(
        "answers",
        json.dumps({"answers": log, "figures": figures}).encode(),
        actor=desk.actor,
        parents=ids,
        note={"run": run.id},
        activity="evaluate",
    )
    passed = gate(figures, gates)
    done = finish(desk, run, {"figures": overall(figures), "gates": passed, "answers": answers})
    desk.vault.record(
        Event(
            "model.evaluated",
            desk.actor,
            RESEARCH,
            activity="evaluate",
            objects=tuple(ids),
            detail={"run": run.id, "model": exported.result["model"], "gates": passed},
        )
    )
    desk.vault.catalogue.update_model(exported.result["model"], {"evaluation": run.id, "gates": passed})
    return done


def summary(items: Sequence[Item], found: dict[str, Result]) -> dict[str, Any]:
    """Accuracies of each model on one suite, the paired test and the majority answer."""
    base, candidate = ([s.strict for s in found[m].scored] for m in ("base", "candidate"))
    return {
        **{m: r.to_dict() for m, r in found.items()},
        "mcnemar": mcnemar(base, candidate),
        "majority": majority(items),
        "n": len(items),
    }


def overall(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures without their breakdown: the catalogue is plain, and the kinds of questions speak of findings."""
    return {
        suite: {k: {r: i for r, i in v.items() if r != "kinds"} if isinstance(v, dict) else v for k, v in found.items()}
        for suite, found in figures.items()
    }


def figures_of(desk: Desk, run: Run, activity: str) -> dict[str, Any]:
    """All figures of an evaluation, the breakdown by kind included, out of the vault."""
    with desk.vault.use([run.result["answers"]], RESEARCH, desk.actor, activity) as opened:
        found: dict[str, Any] = json.loads(opened.read(run.result["answers"]))["figures"]
        return found


def gate(figures: dict[str, Any], gates: Gates) -> dict[str, Any]:
    """What each gate measured, its bound, and whether it was passed."""
    points = {n: 100 * (f["candidate"]["strict"]["mean"] - f["base"]["strict"]["mean"]) for n, f in figures.items()}
    found: dict[str, Any] = {
        "accuracy": {
            "measured": points["held-out"],
            "bound": -gates.worse,
            "passed": points["held-out"] >= -gates.worse,
        }
    }
    if "general" in points:
        found["forgetting"] = {
            "measured": points["general"],
            "bound": -gates.forgetting,
            "passed": points["general"] >= -gates.forgetting,
        }
    return found


def sign_candidate(desk: Desk, exported: Run, measured: Run, model_dir: Path) -> Run:
    """Sign the candidate's manifest with the gates' figures inside. Raises GateFailed where a gate was not passed."""
    failed = [n for n, g in measured.result["gates"].items() if not g["passed"]]
    if failed:
        found = measured.result["gates"][failed[0]]
        raise GateFailed(
            f"the candidate is not signed: gate {failed[0]} measured {found['measured']:.1f}, bound {found['bound']}",
            where=exported.result["model"],
            hint="train with more data or fewer epochs, then export again",
        )
    run = begin(desk, "sign", {"export": exported.id, "evaluate": measured.id}, 0, exported.manifest_root)
    if run.state == "done":
        return run
    key = signing_key(desk)
    model = desk.vault.catalogue.model(exported.result["model"])
    ids = model.objects
    adapter = desk.vault.catalogue.model(model.parent_model)
    with (
        desk.vault.use(ids, RESEARCH, desk.actor, "sign", {"run": run.id}) as opened,
        workdir(desk.vault.home, 2 * sum(desk.vault.catalogue.object(i).size for i in ids)) as work,
    ):
        for file, object_id in zip(("model.gguf", "mmproj.gguf"), ids, strict=True):
            (work / file).write_bytes(opened.read(object_id))
        manifest = Manifest(
            "cloche-model",
            entries([work / "model.gguf", work / "mmproj.gguf"]),
            digest_of(model_dir),
            adapter.note["sha256"],
            exported.manifest_root,
            str(exported.config["quantisation"]),
            exported.result["parity"],
            measured.result["gates"],
            desk.vault.checkpoint().decode(),
            licence_of(model_dir),
            made_by(),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        sign(manifest, work / "model.json", key)
        account, signature = (next(work.glob(p)).read_bytes() for p in ("model.json", "model.json.*"))
    kept = [
        desk.vault.put(kind, data, actor=desk.actor, parents=ids, note={"run": run.id}, activity="sign")
        for kind, data in (("manifest", account), ("signature", signature))
    ]
    desk.vault.catalogue.update_model(model.id, {"state": "signed", "manifest": kept[0], "signature": kept[1]})
    desk.vault.record(
        Event(
            "model.signed",
            desk.actor,
            RESEARCH,
            activity="sign",
            objects=tuple(ids),
            detail={"run": run.id, "model": model.id},
        )
    )
    return finish(
        desk,
        run,
        {"manifest": kept[0], "signature": kept[1], "model": model.id, "public_key": public_key_text(key.public_key())},
    )


def signing_key(desk: Desk) -> Ed25519PrivateKey:
    """The appliance's model-signing key, made at its first use and kept in the vault."""
    found = desk.vault.catalogue.latest_object("signing-key")
    if found is None:
        key = Ed25519PrivateKey.generate()
        desk.vault.put("signing-key", key.private_bytes_raw(), actor=desk.actor, activity="sign")
        return key
    with desk.vault.use([found.id], RESEARCH, desk.actor, "sign") as opened:
        return Ed25519PrivateKey.from_private_bytes(opened.read(found.id))


def licence_of(model_dir: Path) -> str:
    """First line of the model's licence file, or ``not stated``."""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (model_dir / name).is_file():
            return (model_dir / name).read_text(errors="replace").strip().splitlines()[0].strip()
    return "not stated"


def made_by() -> str:
    """Cloche's version."""
    try:
        return f"cloche {version('cloche')}"
    except PackageNotFoundError:
        return "cloche (not installed)"
