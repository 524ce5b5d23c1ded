"""General pictures to rehearse while a model learns the hospital's, so that it does not forget what it knew."""

from PIL import Image

from appliance.starter.exams import general_suite
from appliance.starter.lessons import precise_turns
from audit.conversation import Conversation

SEED = 20_000_003
"""Other pictures than those of the general suite that forgetting is measured by."""


def rehearsal(count: int) -> tuple[list[Conversation], dict[str, Image.Image]]:
    """``count`` short questions about drawn pictures, two a picture, and the pictures by image id."""
    drawn = general_suite(count, SEED)
    talks = [
        Conversation(f"rehearsal/{k}", (f"rehearsal {d.id}",), tuple(precise_turns(d.fact)), "", "rehearsal")
        for k, d in enumerate(drawn)
    ]
    return talks, {f"rehearsal {d.id}": d.image for d in drawn}
