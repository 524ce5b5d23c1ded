"""From captions and kept triplets to conversations that train: one stage, several tasks an image (METHODS 1.5-1.6)."""

import re
from collections.abc import Sequence
from random import Random

from audit.conversation import Conversation, Turn
from synth.synthesizer import Pair
from synth.triplet import DESCRIBE, PRECISE, Triplet

INDICATORS = ("could be ", "so ", "thus ", "therefore ", "final ", "answer ", "result ")
"""Words that show that an answer already concludes."""
RATIONALES = (
    "{why} The answer is {answer}.",
    "{why} So the answer is {answer}.",
    "{why} Therefore, the answer is {answer}.",
    "{why} In short, the answer is {answer}.",
    "{why} Hence the answer is {answer}.",
)
"""Ways to end on the short answer, of our own writing; all end in words that a strict scorer can find."""
CAPTION_TURNS = (DESCRIBE, "Describe this picture.", "Write a caption for the image.", "What does the image show?")
"""Ways to ask for a caption; the first is the synthesizer's own."""


def joined(triplet: Triplet, rng: Random) -> str:
    """Informative and precise answer as one response."""
    last = re.split(r"(?<=[.!?])\s+", triplet.informative.strip())[-1].lower()
    if any(word in last for word in INDICATORS):
        return triplet.informative
    if any(word in triplet.precise.lower() for word in INDICATORS):
        return f"{triplet.informative} {triplet.precise}"
    return rng.choice(RATIONALES).format(why=triplet.informative.rstrip(), answer=triplet.precise.rstrip("."))


def assemble(
    pairs: Sequence[Pair], triplets: Sequence[Triplet], seed: int = 0, short: bool = True
) -> list[Conversation]:
    """Conversations of every image: its caption always, and tasks for each kept triplet.

    A triplet of the image's own gives rationale and answer (METHODS 1.5); a borrowed one only its precise answer.

    Args:
        short: also learn the precise answers of the image's own triplets under the precise hint, so that short
            questions get short answers.
    """
    by_record: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        if triplet.kept:
            by_record.setdefault(triplet.record, []).append(triplet)
    talks: list[Conversation] = []
    for pair in pairs:
        rng = Random(f"{seed} {pair.record}")

        def talk(kind: str, asked: str, said: str, pair: Pair = pair) -> Conversation:
            number = f"{pair.record}/{kind}/{len(talks)}"
            return Conversation(
                number, (pair.image,), (Turn("user", asked), Turn("assistant", said, True)), pair.record, kind
            )

        talks.append(talk("caption", rng.choice(CAPTION_TURNS), pair.caption))
        for triplet in by_record.get(pair.record, []):
            if not triplet.borrowed:
                talks.append(talk("rationale", triplet.instruction, joined(triplet, rng)))
            if short or triplet.borrowed:
                talks.append(talk("precise", f"{PRECISE}\n{triplet.instruction}", triplet.precise))
    return talks
