"""The chat template that a model brings: in its tokenizer, or beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from audit.errors import BadInput

_PROBE = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "probe"}]},)
_HINT = "bring chat_template.json or chat_template.jinja of the model's release into this directory"


def chat_template_of(directory: Path, tokenizer: Any, slot: str) -> str:
    """The first of a model's templates that writes images: the tokenizer's, chat_template.jinja, chat_template.json.

    A language model's template, left in the tokenizer of a model that sees, writes none and is passed over.

    Args:
        slot: text of the image token.
    Raises:
        BadInput: there is no template, or none that writes an image.
    """
    found = list(_templates(directory, tokenizer))
    for template in found:
        if _writes_images(tokenizer, template, slot):
            return template
    what = "its chat template writes no images" if found else "it has no chat template"
    raise BadInput(f"the model cannot be talked to about images: {what}", where=str(directory), hint=_HINT)


def _templates(directory: Path, tokenizer: Any) -> Iterator[str]:
    own = tokenizer.chat_template
    own = own.get("default") if isinstance(own, dict) else own
    if own:
        yield own
    beside = directory / "chat_template.jinja"
    if beside.is_file():
        yield beside.read_text()
    old = directory / "chat_template.json"  # processors wrote it until transformers 4.51
    if old.is_file():
        try:
            yield str(json.loads(old.read_text())["chat_template"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput("chat_template.json is broken", where=str(old), hint=_HINT) from error


def _writes_images(tokenizer: Any, template: str, slot: str) -> bool:
    try:
        text = tokenizer.apply_chat_template(list(_PROBE), chat_template=template, tokenize=False)
    except (ValueError, TypeError, TemplateError):
        return False
    return "probe" in text and slot in text
