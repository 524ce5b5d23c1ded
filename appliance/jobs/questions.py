"""Questions to measure by: read from a file that the steward brings, drawn, or taken from the kept triplets."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from appliance.jobs.common import RESEARCH, Desk, images_in, latest, usable
from appliance.jobs.measure import Suite
from appliance.jobs.synthesise import triplets_of
from appliance.starter.exams import general_suite
from audit.conversation import Turn
from audit.errors import BadInput
from audit.vault import Opened
from synth.triplet import PRECISE
from train.evaluation.run import Item
from train.gguf.verify import Prompt


def sources_of(desk: Desk) -> dict[str, str]:
    """Record of each picture, by the picture's file name in the source, without its ending."""
    records = usable(desk, desk.vault.catalogue.records())
    with desk.vault.use([r.report for r in records], RESEARCH, desk.actor, "evaluate") as opened:
        return {Path(json.loads(opened.read(r.report))["source"]).stem: r.id for r in records}


def read_questions(desk: Desk, path: Path, sources: dict[str, str] | None = None) -> Suite:
    """The suite of a JSONL file: one object a line with image, text, choices, answer, and optionally id and kind.

    ``image`` is the name of a picture that was ingested. Raises BadInput naming file, line and field.
    """
    known = sources if sources is not None else sources_of(desk)
    records = {r.id: r for r in desk.vault.catalogue.records()}
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the questions cannot be read: {error}", where=str(path), hint="name a JSONL file") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
            name = Path(str(row["slice_id"] if "slice_id" in row else row["image"])).stem
            text, choices, answer = str(row["text"]), tuple(map(str, row["choices"])), str(row["answer"])
        except (ValueError, TypeError) as error:
            raise BadInput(f"this line is no question: {error}", where=where, hint="one JSON object a line") from None
        except KeyError as error:
            raise BadInput(
                f"the field {error} is missing", where=where, hint="a question has image, text, choices and answer"
            ) from None
        if name not in known:
            raise BadInput(
                "the question is about a picture that was not ingested, or that the policy does not allow",
                where=f"{where}, image",
                hint="cloche ingest SOURCE, or leave the line out",
            )
        if answer not in choices:
            raise BadInput(
                "the answer is none of the choices", where=f"{where}, answer", hint="list it among the choices"
            )
        record = records[known[name]]
        items.append(
            Item(
                str(row.get("id", number)),
                record.image,
                f"{PRECISE}\n{text}",
                choices,
                answer,
                str(row.get("kind", "closed")),
                record.patient,
            )
        )
    if not items:
        raise BadInput("there are no questions in this file", where=str(path), hint="one JSON object a line")
    return Suite(
        "held-out", tuple(items), lambda name: Image.new("RGB", (1, 1)), tuple(dict.fromkeys(i.image for i in items))
    )


def general(count: int) -> Suite:
    """Held-out questions about drawn pictures: what the starter could do before."""
    drawn = general_suite(count)
    images = {d.id: d.image for d in drawn}
    items = [
        Item(f"general/{k}", d.id, f"{PRECISE}\n{d.fact.question}", (d.fact.precise,), d.fact.precise, "drawn", d.id)
        for k, d in enumerate(drawn)
    ]
    return Suite("general", tuple(items), images.__getitem__)


def opener(opened: Opened, suite: Suite) -> Callable[[str], Image.Image]:
    """Images of a suite: the vault's by record, the drawn ones as they are."""
    return images_in(opened) if suite.objects else suite.image


def prompts_of(
    desk: Desk, suite: Suite | None, fit: Callable[[Image.Image], Image.Image], count: int = 200
) -> list[Prompt]:
    """Questions that GGUF and transformers are compared by, those about one image together.

    Args:
        suite: where they come from; None: the questions of the kept triplets.
        fit: brings an image to the size that the model was trained with.
    """
    if suite is not None:
        asked = [(i.id, i.image, i.text) for i in suite.items]
    else:
        kept = [t for t in triplets_of(desk, latest(desk, "synth"), "export") if t.kept]
        asked = [(f"triplet/{k}", t.image, f"{PRECISE}\n{t.instruction}") for k, t in enumerate(kept)]
    asked = sorted(asked, key=lambda row: row[1])[:count]
    images = list(dict.fromkeys(image for _, image, _ in asked))
    with desk.vault.use(images, RESEARCH, desk.actor, "export") as opened:
        image = images_in(opened)
        fitted = {name: fit(image(name)) for name in images}
    return [Prompt(name, (Turn("user", text),), fitted[image_id]) for name, image_id, text in asked]
