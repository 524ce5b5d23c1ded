"""The chat template that travels inside a GGUF, rendered as transformers renders it."""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from audit.conversation import Turn
from audit.errors import BadInput


class ChatTemplate:
    """Turns a dialogue into the text that the model reads.

    The template comes with the model, so it runs in Jinja's immutable sandbox. Turns are brought into Unicode's NFC
    first where the model's tokenizer does so in training, because llama.cpp does not.

    Args:
        source: the Jinja template.
        control: texts of the control tokens. A turn that holds one is refused: it could speak as the system.
        image_slot: what the template writes where an image belongs; empty for a model that does not see.
        nfc: whether the tokenizer normalises to NFC.
    """

    def __init__(self, source: str, control: Sequence[str], image_slot: str, nfc: bool) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False,  # noqa: S701
        )  # fmt: skip
        environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BadInput(f"the model's chat template is broken: {error}", where="tokenizer.chat_template") from error
        self._control, self._slot, self._nfc = tuple(control), image_slot, nfc

    def render(self, turns: Sequence[Turn], image: bool) -> list[str]:
        """The prompt up to where the assistant speaks, cut where the image belongs.

        Args:
            turns: the dialogue; the image stands before the text of the first user turn.
            image: whether there is one.

        Returns: one piece of text, or two with the image between them.

        Raises:
            BadInput: no user turn, a control token in a turn, text that is not Unicode, or a template that refuses.
        """
        if image and not self._slot:
            raise BadInput("this model does not see: it was loaded without its mmproj", hint="name the mmproj file too")
        if not any(turn.role == "user" for turn in turns):
            raise BadInput("there is no question: no turn of the user")
        try:
            text = self._template.render(messages=self._messages(turns, image), add_generation_prompt=True)
        except TemplateError as error:
            raise BadInput(f"the model's chat template refuses this dialogue: {error}") from error
        pieces = text.split(self._slot) if image else [text]
        if image and len(pieces) != 2:
            raise BadInput(f"the model's chat template makes {len(pieces) - 1} places for one image")
        return pieces

    def _messages(self, turns: Sequence[Turn], image: bool) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(turns, 1):
            held = next((token for token in self._control if token in turn.text), None)
            if held is not None:
                raise BadInput(f"turn {number} holds the control token {held}", hint="remove it from the text")
            if any("\ud800" <= letter <= "\udfff" for letter in turn.text):
                raise BadInput(f"turn {number} is not valid Unicode text")
            said = unicodedata.normalize("NFC", turn.text) if self._nfc else turn.text
            if image and turn.role == "user":
                image = False
                messages.append({"role": turn.role, "content": [{"type": "image"}, {"type": "text", "text": said}]})
            else:
                messages.append({"role": turn.role, "content": said})
        return messages


def _raise(message: str) -> None:
    raise TemplateError(message)
