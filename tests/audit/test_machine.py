"""The log against a list: whatever is done to it in whatever order, it holds what was acknowledged, and says so."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audit import merkle, store
from audit.carry import carry
from audit.checkpoint import Checkpoint, Signer, open_note
from audit.errors import IntegrityFailure, Refused
from audit.events import Event
from audit.keys import generate
from audit.log import Log
from audit.proofs import Tree
from audit.reading import read
from audit.rotation import KeyChain
from audit.verify import verify
from tests.audit.adversary import remarks

PEOPLE = [generate(name, "X25519") for name in ("auditor", "recovery")]
ACTOR = remarks(0, 1)[0].actor
NAME = "cloche/log/machine"
pick = st.integers(0, 10**6)


class Machine(RuleBasedStateMachine):
    """A log, its writers, older copies and checkpoints; and `model`, the numbers of the events in their order."""

    def __init__(self):
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.root = Path(self._temporary.name)
        self.folders = 0
        self.folder = self._fresh()
        self.signers = [Signer.generate(NAME)]
        self.model: list[int] = []
        self.writers: list[Log] = []
        self.copies: list[tuple[Path, int]] = []  # an older copy, and how many events it holds
        self.notes: list[Checkpoint] = []  # what a witness would keep
        self.next = 0

    @initialize()
    def create(self):
        recipients = [pair.recipient for pair in PEOPLE]
        self.writers = [Log.create(self.path, self.signers[0], recipients, self.mark)]

    @property
    def path(self):
        return self.folder / "log.sqlite"

    @property
    def mark(self):
        return self.folder / "high-water"

    def _fresh(self):
        self.folders += 1
        made = self.root / str(self.folders)
        made.mkdir()
        return made

    def _opened(self):
        return Log(self.path, self.signers[-1], [pair.recipient for pair in PEOPLE], self.mark)

    def _events(self, count):
        first, self.next = self.next, self.next + count
        return remarks(first, count), list(range(first, first + count))

    def _writer(self, which):
        if not self.writers:
            self.writers.append(self._opened())
        return self.writers[which % len(self.writers)]

    @rule(which=pick)
    def append(self, which):
        (event,), numbers = self._events(1)
        sequence = self._writer(which).append(event)
        self.model += numbers
        assert sequence == self._size() - 1

    @rule(which=pick, count=st.integers(0, 20))
    def batch(self, which, count):
        events, numbers = self._events(count)
        with self._writer(which).batch() as batch:
            for event in events:
                batch.append(event)
        self.model += numbers
        assert batch.sequences == list(range(self._size() - count, self._size()))

    @rule(which=pick)
    def batch_that_is_given_up(self, which):
        with pytest.raises(KeyError), self._writer(which).batch() as batch:
            batch.append(self._events(1)[0][0])
            raise KeyError

    @precondition(lambda self: len(self.writers) < 3)
    @rule()
    def another_writer(self):
        self.writers.append(self._opened())

    @rule()
    def reopen(self):
        while self.writers:
            self.writers.pop().close()
        self.writers.append(self._opened())

    @rule()
    def crash(self):
        """The machine stops: what lies on the disk, write-ahead log and all, is what there is."""
        before, self.folder = self.folder, self._fresh()
        for file in before.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.folder)
        while self.writers:
            self.writers.pop().close()
        shutil.rmtree(before)

    @rule(which=pick)
    def rotate(self, which):
        heir = Signer.generate(NAME)
        writer = self._writer(which)
        writer.rotate(heir, Event("keys.changed", ACTOR, detail={"number": self.next}))
        self.model.append(self.next)
        self.next += 1
        self.signers.append(heir)
        for other in [one for one in self.writers if one is not writer]:
            with pytest.raises(Refused, match="handed over"):
                other.append(remarks(0, 1)[0])
            self.writers.remove(other)
            other.close()

    @rule(which=pick)
    def checkpoint(self, which):
        note = self._writer(which).checkpoint()
        self.notes.append(open_note(note, self._chain().at(self._size())))
        assert self.notes[-1].size == self._size()

    @rule(one=pick, other=pick)
    def prove(self, one, other):
        connection = store.reader(self.path)
        leaves = [leaf for (leaf,) in connection.execute("SELECT leaf FROM entries ORDER BY sequence")]
        tree = Tree(connection)
        root = tree.root(tree.size)
        assert root == merkle.root(leaves)
        if leaves:
            index, first = one % len(leaves), other % len(leaves) + 1
            proof = tree.inclusion(index, len(leaves))
            assert merkle.verify_inclusion(leaves[index], index, len(leaves), proof, root)
            proof = tree.consistency(first, len(leaves))
            assert merkle.verify_consistency(first, len(leaves), merkle.root(leaves[:first]), root, proof)
        connection.close()

    @rule()
    def carry(self):
        out = self.root / "carried"
        carry(self.path, out)
        found = verify(out, self.signers[0].key)
        assert found.state == "intact" and self._read(out, found.size) == self.model
        out.unlink()

    @rule()
    def copy(self):
        made = self._fresh() / "older.sqlite"
        carry(self.path, made)
        self.copies.append((made, len(self.model)))

    @precondition(lambda self: self.copies)
    @rule(which=pick)
    def restore(self, which):
        """An older copy is put in the log's place, the mark stays: it must be refused, unless nothing came since."""
        copy, size = self.copies[which % len(self.copies)]
        self.crash()
        folder = self._fresh()
        shutil.copy(copy, folder / "log.sqlite")
        shutil.copy(self.mark, folder)
        there = folder / "log.sqlite"
        found = verify(there, self.signers[0].key, folder / "high-water")
        if size == len(self.model):
            assert found.state == "intact"
            self.folder = folder
        else:
            assert found.state == "failed" and "high-water mark" in found.why, found.sentence
            with pytest.raises((IntegrityFailure, Refused)):
                Log(there, self.signers[-1], [pair.recipient for pair in PEOPLE], folder / "high-water")
            alone = verify(there, self.signers[0].key)
            assert alone.state == "intact", "nothing inside the file can tell"
            for note in self.notes:
                if note.size > alone.size:
                    assert "kept elsewhere" in verify(there, self.signers[0].key, None, note).why

    @invariant()
    def it_holds_what_was_acknowledged_and_says_so(self):
        if not self.path.is_file():
            return
        witness = max(self.notes, key=lambda note: note.size, default=None)
        for signer in (self.signers[0], self.signers[-1]):
            found = verify(self.path, signer.key, self.mark, witness)
            assert found.state == "intact", found.sentence
        assert self._read(self.path, found.size) == self.model
        assert found.size == self._size()

    def _read(self, path, size):
        return [one.event.detail["number"] for one in read(path, PEOPLE[size % 2], size)]

    def _size(self):
        connection = store.reader(self.path)
        size = Tree(connection).size
        connection.close()
        return size

    def _chain(self):
        connection = store.reader(self.path)
        chain = KeyChain.of(self.signers[0].key, list(store.rotations(connection)))
        connection.close()
        return chain

    def teardown(self):
        for writer in self.writers:
            writer.close()
        self._temporary.cleanup()


TestMachine = pytest.mark.slow(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
