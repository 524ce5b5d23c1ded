"""Two verifiers that share no code come to one verdict on several hundred tampered logs, and on the entry to name."""

import random
import shutil
from collections import Counter

import pytest

from audit.checkpoint import open_note
from audit.verify import verify
from tests.audit import attacks_entries, attacks_log
from tests.audit.adversary import ATTACKS, Attack, victims
from tests.audit.standalone import STANDALONE

SEED = 20300102
LOGS = 600
"""Tampered logs, at least."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory, people):
    return list(victims(tmp_path_factory.mktemp("victims"), people[:2]))


def verdicts(a: Attack, mark: bool, witness: bool) -> tuple[tuple[str, int | None], tuple[str, int | None], str, str]:
    """State and failed entry by each verifier, and their reasons."""
    victim = a.victim
    line, note = victim.pin.to_text(), victim.witnessed if witness else None
    checkpoint = open_note(note, victim.signers[-1].key) if note else None
    ours = verify(a.path, victim.pin, a.mark if mark else None, checkpoint)
    theirs = STANDALONE.verify(a.path, line, a.mark if mark else None, note)
    state = "intact" if theirs.at is None else "failed"
    return (ours.state, ours.failed_at), (state, theirs.at), ours.why, theirs.why


def test_untouched_logs_are_intact_by_both(targets, tmp_path):
    for victim in targets:
        a = Attack(victim, tmp_path / victim.name, random.Random(1))
        for mark, witness in ((False, False), (True, False), (True, True)):
            ours, theirs, *why = verdicts(a, mark, witness)
            assert ours == theirs == ("intact", None), (victim.name, why)
    modules = {function.__module__.rpartition(".")[2] for function, _ in ATTACKS.values()}
    assert modules == {one.__name__.rpartition(".")[2] for one in (attacks_entries, attacks_log)} and len(ATTACKS) > 60


@pytest.mark.slow
def test_both_verifiers_agree_on_every_tampered_log(targets, tmp_path):
    seen, exact, states = 0, 0, Counter()
    pairs = [
        (name, victim) for name, (_, only) in ATTACKS.items() for victim in targets if not only or victim.name in only
    ]
    dice = random.Random(SEED)
    while seen < LOGS:
        for name, victim in pairs:
            folder = tmp_path / "attacked"
            a = Attack(victim, folder, random.Random(dice.random()))
            ATTACKS[name][0](a)
            for mark, witness in ((False, False), (True, False), (False, True)):
                ours, theirs, why, their_why = verdicts(a, mark, witness)
                where = (name, victim.name, mark, witness, ours, why, theirs, their_why)
                # The second verifier reads the witnessed note by the tampered log's own keys: these may be gone.
                unread = witness and "not signed" in their_why
                assert ours[0] == theirs[0] or unread, where
                # By SQLite's own word the file is damaged: then no single entry is to blame.
                vague = unread or "damaged:" in why + their_why
                assert ours == theirs or vague, where
                exact += not vague
                states[ours[0]] += 1
            seen += 1
            shutil.rmtree(folder)
    assert states["intact"] > 50 and states["failed"] > 1000 and exact > 1000, (states, exact)
