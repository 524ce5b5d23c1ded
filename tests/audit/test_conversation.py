"""Conversations cross floors and files unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.conversation import Conversation, Turn
from audit.errors import BadInput

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
turns = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), text, st.booleans()), max_size=4)
conversations = st.builds(
    Conversation, text, st.lists(text, max_size=3).map(tuple), turns.map(tuple), text, st.sampled_from(["caption"])
)


@given(conversations)
def test_a_conversation_is_one_line_and_comes_back(conversation):
    line = conversation.to_json()
    assert "\n" not in line and Conversation.from_json(line) == conversation


@pytest.mark.parametrize("line", ["", "[]", "7", "{}", '{"id":1}', '{"turns":[{}]}', '{"turns":7}', "{"])
def test_another_line_is_bad_input(line):
    with pytest.raises(BadInput):
        Conversation.from_json(line)
