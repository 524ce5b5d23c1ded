"""One question about one image, answered by the newest model of this appliance through llama.cpp, and logged."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from audit.actor import Actor
from audit.conversation import Turn
from audit.errors import BadInput
from audit.events import Event
from audit.rows import Model
from audit.vault import Vault
from synth.triplet import PRECISE
from train.gguf.engine import Engine
from train.models.directory import family_noted

NOT_A_DIAGNOSIS = "Not a diagnosis."


@dataclass(frozen=True)
class Said:
    """An answer as it is shown."""

    id: str
    """Name of the answer in the log."""
    text: str
    """What the model says."""
    share: float
    """Probability that the model gives this answer (with choices: among them). Not calibrated."""
    distribution: dict[str, float]
    """Probability of each choice; empty without choices."""
    model: str
    """Id of the model."""
    state: str
    """``signed`` or ``candidate``."""
    size: tuple[int, int]
    """Width and height that the model saw, in pixels."""
    visual_tokens: int
    """Visual tokens of the image."""


def open_image(path: Path) -> Image.Image:
    """A picture file, read whole. Raises BadInput where it is missing, truncated or no picture."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGB")
    except FileNotFoundError:
        raise BadInput("there is no such image", where=str(path), hint="name a PNG or JPEG file") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(
            f"the image cannot be read: {str(error).splitlines()[0][:120]}",
            where=str(path),
            hint="export it again from its source, as PNG or JPEG",
        ) from error


def served_model(vault: Vault) -> Model:
    """The newest signed GGUF, else the newest candidate. Raises BadInput where there is none that may be asked."""
    found = vault.catalogue.models("gguf")
    models = [m for m in found if m.note.get("state") != "retired"]
    signed = [m for m in models if m.note.get("state") == "signed"]
    if found and not models:
        raise BadInput(
            f"the model was retired at {found[-1].note.get('retired')}: it learned from a patient who was forgotten",
            where=found[-1].id,
            hint="make another: cloche synth, then train and export",
        )
    if not models:
        raise BadInput("this appliance has no model to ask yet", where=str(vault.home), hint="cloche export")
    return (signed or models)[-1]


def ask(
    vault: Vault,
    actor: Actor,
    image: Image.Image,
    questions: Sequence[str],
    *,
    short: bool = True,
    choices: Sequence[str] = (),
    max_tokens: int = 64,
) -> list[Said]:
    """Ask several questions about one image; each answer is an event before it is shown.

    Args:
        short: ask for the precise answer; otherwise the model reasons first.
        choices: answers to choose from; none: free text.
    """
    model = served_model(vault)
    family = family_noted(model.note["family"])
    fitted = family.fitted(image)
    seen = hashlib.sha256(fitted.tobytes()).hexdigest()
    with vault.use(model.objects, "TREAT", actor, "ask", {"model": model.id}) as opened:
        engine = Engine(opened.read(model.objects[0]), opened.read(model.objects[1]))
    found = []
    with engine:
        for question in questions:
            turns = [Turn("user", f"{PRECISE}\n{question}" if short else question)]
            if choices:
                scores = engine.score(fitted, turns, choices)
                total = math.fsum(math.exp(s) for s in scores.values())
                spread = {c: math.exp(s) / total for c, s in scores.items()}
                text = max(spread, key=spread.__getitem__)
                share = spread[text]
            else:
                (answer,) = engine.answers(fitted, [turns], max_tokens)
                spread, text, share = {}, answer.text.strip(), math.exp(answer.logprob)
            detail = {
                "model": model.id,
                "gguf": str(model.note.get("sha256", "")),
                "image": seen,
                "question": hashlib.sha256(question.encode()).hexdigest(),
                "answer": hashlib.sha256(text.encode()).hexdigest(),
            }
            number = vault.record(
                Event("question.answered", actor, "TREAT", activity="ask", objects=model.objects, detail=detail)
            )
            found.append(
                Said(
                    f"answer-{number}",
                    text,
                    share,
                    spread,
                    model.id,
                    str(model.note.get("state")),
                    fitted.size,
                    family.visual_tokens(family.grid(fitted)),
                )
            )
    return found
