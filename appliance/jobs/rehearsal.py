"""General pictures to rehearse while a model learns the hospital's, so that it does not forget what it knew."""

from PIL import Image

from appliance.starter.exams import general_suite
from audit.conversation import Conversation, Turn
from synth.triplet import PRECISE

SEED = 20_000_003
"""Other pictures than those of the general suite that forgetting is measured by."""


def rehearsal(count: int) -> tuple[list[Conversation], dict[str, Image.Image]]:
    """``count`` short questions about drawn pictures, two a picture, and the pictures by image id."""
    drawn = general_suite(count, SEED)
    talks = [
        Conversation(
            f"rehearsal/{k}",
            (f"rehearsal {d.id}",),
            (Turn("user", f"{PRECISE}\n{d.fact.question}"), Turn("assistant", d.fact.precise, True)),
            "",
            "rehearsal",
        )
        for k, d in enumerate(drawn)
    ]
    return talks, {f"rehearsal {d.id}": d.image for d in drawn}
