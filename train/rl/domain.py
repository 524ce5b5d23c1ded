"""Domain knowledge in the objective: a transformed image must give the transformed answer (METHODS 3, DESIGN §5).

A table (`train.rl.table`) says which transforms keep a domain's answers right and which words they swap. Here a table
meets a tokenizer. Swapping is a permutation of the vocabulary, so that the transformed question, completion and
distribution are one lookup away. That is exact only where each swapped token is a whole word of the text and each
swapped word is one such token; `Transform.exact` asks just that, by decoding, and what fails is gated out: words of
several tokens, words that the policy spelt out in pieces, parts of other words (b·right, left·over).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from train.rl.table import Rule, Table

_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""How byte-level and SentencePiece vocabularies write spaces and line ends."""


@dataclass(frozen=True)
class Transform:
    """One transform of a domain, for one tokenizer."""

    rule: Rule
    """What the table says of it."""
    permutation: np.ndarray
    """(V,) int64: each token's counterpart; most are their own."""
    joins: np.ndarray
    """(V,) bool: swapped tokens that begin with a letter, so that behind a letter they are parts of a word."""
    letters: np.ndarray
    """(V,) bool: tokens that end with a letter or digit."""
    tokenizer: Any
    """The model's own."""

    @classmethod
    def of(cls, rule: Rule, tokenizer: Any) -> "Transform":
        """Find the tokens that are one written form of a swapped word, with whatever stands before it in the token."""
        vocabulary = tokenizer.get_vocab()
        special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
        words = {word.lower() for pair in rule.swap for word in pair}
        size = max(len(tokenizer), 1 + max(vocabulary.values(), default=0))
        permutation, joins, letters = np.arange(size), np.zeros(size, bool), np.zeros(size, bool)
        spelt: dict[str, list[int]] = {}
        for raw, token in vocabulary.items():
            text = raw.translate(_SPACES)
            if token in special or not text:
                continue
            letters[token] = text[-1].isalnum()
            if any(word in text.lower() for word in words):
                spelt.setdefault(text, []).append(token)
        for text, tokens in spelt.items():
            turned = rule.swap_text(text)
            other = spelt.get(turned, [])
            if turned != text and len(tokens) == len(other) == 1 and rule.swap_text(turned) == text:
                permutation[tokens[0]], joins[tokens[0]] = other[0], text[0].isalnum()
        return cls(rule, permutation, joins, letters, tokenizer)

    @property
    def name(self) -> str:
        """The kind's name."""
        return self.rule.kind.name

    @property
    def suffix(self) -> str:
        """Behind an image's id, it names the transformed image."""
        return self.rule.kind.suffix

    def swap(self, ids: np.ndarray) -> np.ndarray:
        """Each token's counterpart; ids past the tokenizer's last, which models pad their vocabulary with, stay."""
        known = ids < len(self.permutation)
        return np.where(known, self.permutation[np.where(known, ids, 0)], ids)

    def back(self, logits: torch.Tensor, before: np.ndarray | None = None) -> torch.Tensor:
        """Logits read at each token's counterpart; its own inverse.

        Args:
            logits: (N, V); V may go past the tokenizer's last id.
            before: (N,) the token in front of each; behind a letter, tokens that go on with a word stay (b·right).
        """
        size = logits.shape[-1]
        moved = np.flatnonzero(self.permutation != np.arange(len(self.permutation)))
        moved = moved[(moved < size) & (self.permutation[moved] < size)]
        here, there = (torch.from_numpy(i).to(logits.device) for i in (moved, self.permutation[moved]))
        taken = logits[:, there]
        if before is not None:
            inside = (before < len(self.letters)) & self.letters[np.where(before < len(self.letters), before, 0)]
            stays = torch.from_numpy(inside[:, None] & self.joins[moved][None]).to(logits.device)  # (N, moved)
            taken = torch.where(stays, logits[:, here], taken)
        return logits.index_copy(1, here, taken)

    def exact(self, ids: Sequence[int] | np.ndarray) -> bool:
        """Whether swapping these tokens swaps the words of their text, all of them and nothing else."""
        before, after = (
            self.tokenizer.decode([int(i) for i in some], clean_up_tokenization_spaces=False)
            for some in (ids, self.swap(np.asarray(ids, dtype=np.int64)))
        )
        return bool(self.rule.swap_text(before) == after)

    def refusal(self, question: str, completion: str, ids: Sequence[Sequence[int]] = ()) -> str:
        """Why the constraint may not be put on a conversation; empty where it may.

        Args:
            ids: the tokens that will be swapped, where they are known: the prompt's, the completion's as it was
                sampled. Without them the tokenizer's own spelling of both texts is looked at.
        """
        if why := self.rule.refusal(question, completion):
            return why
        if not self.rule.swap:
            return ""
        spelt = ids or [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question, completion)]
        if all(self.exact(some) for some in spelt):
            return ""
        return "a word that is swapped is not one token here, or is a part of another word"

    def applies(self, question: str, completion: str, ids: Sequence[Sequence[int]] = ()) -> bool:
        """Whether the constraint may be put on a conversation; arguments as `refusal` takes them."""
        return not self.refusal(question, completion, ids)


@dataclass(frozen=True)
class Domain:
    """A table, for one tokenizer."""

    table: Table
    """What was declared."""
    transforms: tuple[Transform, ...]
    """One of each rule, in the table's order."""

    @classmethod
    def of(cls, table: Table, tokenizer: Any) -> "Domain":
        """Find the tokens of each rule's words."""
        return cls(table, tuple(Transform.of(rule, tokenizer) for rule in table.rules))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of all its transforms' images."""
        return tuple(one.suffix for one in self.transforms)
