"""The unit that crosses floors: a conversation about images."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from audit.errors import BadInput


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """``user``, ``assistant`` or ``system``."""
    text: str
    """What is said."""
    learned: bool = False
    """Whether training counts this turn's tokens in its loss."""


@dataclass(frozen=True)
class Conversation:
    """Turns about images, with where they come from."""

    id: str
    """Stable name of the conversation."""
    images: tuple[str, ...]
    """Object ids of its images, in the order in which they stand at the head of the first user turn."""
    turns: tuple[Turn, ...]
    """The turns in order."""
    record: str
    """The record that it was made from."""
    kind: str
    """What it is for: ``caption``, ``rationale``, ``precise`` ..."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Conversation":
        """The conversation of one line. Raises BadInput where the line is not one."""
        try:
            found: dict[str, Any] = json.loads(line)
            turns = tuple(Turn(str(t["role"]), str(t["text"]), bool(t["learned"])) for t in found["turns"])
            images = tuple(str(image) for image in found["images"])
            return cls(str(found["id"]), images, turns, str(found["record"]), str(found["kind"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("this line is no conversation") from error
