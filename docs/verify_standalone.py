"""A second verifier of Cloche's audit log: this one file, Python and `cryptography`, no line shared with Cloche.

It is written from audit-format.md, which stands beside it; "section" means a section of that page. Read it, keep it on
a machine of your own, and run it on a log or on a carried copy, with the public key that you noted at installation:

    python verify_standalone.py LOG --key log.pub
    python verify_standalone.py LOG --key log.pub --high-water high-water --witness noted.checkpoint
    python verify_standalone.py LOG --key log.pub --inclusion entry-17.proof
    python verify_standalone.py --key log.pub --inclusion entry-17.proof --leaf HEX
    python verify_standalone.py --key log.pub --consistency step.proof --old noted.checkpoint
    python verify_standalone.py --key log.pub --absence absent.json

It prints `intact ...` and exits with 0, or `FAILED at entry K: why` (of a proof: `FAILED: why`) and exits with 4.
What it simplifies: a log's older checkpoints are held in memory (about 200 bytes for 256 entries).
"""

import argparse
import base64
import hashlib
import json
import re
import sqlite3
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

HEADER = struct.Struct(">BBBB32sQQI")  # section 2
NUMBER = re.compile("0|[1-9][0-9]{0,18}")
DAMAGED = (sqlite3.Error, OSError, ValueError, MemoryError, OverflowError)  # what reading a damaged file can raise


class Broken(Exception):
    """A rule does not hold. `at` is the entry to name; without it, the first that was not reached yet."""

    def __init__(self, why, at=None):
        super().__init__(why)
        self.why, self.at = why, at


class Verdict(NamedTuple):
    """`at` is None where the log is intact; else the first entry that nothing vouches for."""

    size: int
    at: int | None
    why: str


def need(holds, otherwise, at=None):
    """A rule. Raises Broken."""
    if not holds:
        raise Broken(otherwise, at)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def strict_base64(text, length):
    """The bytes, where the text is the one spelling that base64 has for them. Raises ValueError."""
    data = base64.b64decode(text, validate=True)
    if len(data) != length or base64.b64encode(data) != text.encode():
        raise ValueError("base64")
    return data


# --- Section 3: the tree, and proofs of RFC 9162 ------------------------------------------------------------------


class Tree:
    """Leaves go in on the right; what stands on the stack are perfect subtrees, (height, root), the largest first."""

    def __init__(self):
        self.size, self.stack = 0, []

    def add(self, leaf):
        """Add a leaf; returns (height, place, root) of each subtree of height 8, 16 ... that it completes."""
        height, node, complete = 0, leaf, []
        while self.stack and self.stack[-1][0] == height:
            node, height = sha(b"\x01", self.stack.pop()[1], node), height + 1
            if height % 8 == 0:
                complete.append((height, self.size >> height, node))
        self.stack.append((height, node))
        self.size += 1
        return complete

    def root(self):
        node = self.stack[-1][1] if self.stack else sha()
        for _, left in self.stack[-2::-1]:
            node = sha(b"\x01", left, node)
        return node


def left_part(size):
    """Leaves of the left subtree: the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def root_by_inclusion(leaf, index, size, proof):
    """The root that a proof leads to. Section 2.1.3.1 of the RFC, read backwards: the last hash stands on top."""
    if size == 1:
        need(not proof, "the proof has hashes to spare")
        return leaf
    need(proof, "the proof lacks hashes")
    left, beside = left_part(size), proof[-1]
    if index < left:
        return sha(b"\x01", root_by_inclusion(leaf, index, left, proof[:-1]), beside)
    return sha(b"\x01", beside, root_by_inclusion(leaf, index - left, size - left, proof[:-1]))


def roots_by_consistency(old, new, old_root, proof):
    """The old and the new root that a proof leads to. Section 2.1.4.1 of the RFC, read backwards; empties `proof`."""

    def walk(old, new, known):
        need(proof or (old == new and known), "the proof lacks hashes")
        if old == new:
            node = old_root if known else proof.pop()
            return node, node
        left, beside = left_part(new), proof.pop()
        if old <= left:
            before, after = walk(old, left, known)
            return before, sha(b"\x01", after, beside)
        before, after = walk(old - left, new - left, False)
        return sha(b"\x01", beside, before), sha(b"\x01", beside, after)

    found = walk(old, new, True)
    need(not proof, "the proof has hashes to spare")
    return found


# --- Section 4: keys, signed notes, checkpoints, rotations, predecessor --------------------------------------------


class Key(NamedTuple):
    """The public key of a log; its name is the log's origin."""

    name: str
    public: bytes

    @classmethod
    def of(cls, line):
        """The key of its line. Raises ValueError."""
        name, key_hash, data = line.strip().split("+", 2)
        found = strict_base64(data, 33)
        key = cls(name, found[1:])
        if found[0] != 1 or key.hash.hex() != key_hash or not re.fullmatch("[!-*,-~]{1,80}", name):
            raise ValueError("no line of a log's public key")
        return key

    @property
    def hash(self):
        return sha(self.name.encode(), b"\n\x01", self.public)[:4]


def signed_text(note, key, most=4096):
    """The text of a note that the key has signed; lines of other keys may stand beside. Raises Broken."""
    text, gap, below = note.rpartition(b"\n\n")
    text, lead = text + b"\n", f"— {key.name} ".encode()
    need(gap and below.endswith(b"\n") and len(note) <= most, "a signed note is damaged")
    for line in below[:-1].split(b"\n"):
        if not line.startswith(lead):
            continue
        try:
            signature = strict_base64(line[len(lead) :].decode(), 68)
            if signature[:4] == key.hash:
                ed25519.Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], text)
                return text
        except (ValueError, InvalidSignature):
            break
    raise Broken("a note is not signed by the log's key")


def checkpoint_of(text):
    """Origin, size and root. Raises Broken."""
    try:
        origin, size, root = text.decode().removesuffix("\n").split("\n")[:3]
        need(NUMBER.fullmatch(size), "a checkpoint's size is no number")
        return origin, int(size), strict_base64(root, 32)
    except ValueError as error:
        raise Broken("a note holds no checkpoint") from error


class Keys:
    """All keys of one log, (size from which on it signs, key), the oldest first; and what the rotations promise."""

    def __init__(self, pinned, notes):
        self.keys, self.promises = [], []
        for note in notes:
            try:
                what, origin, size, root, *lines = note.partition(b"\n\n")[0].decode().split("\n")
                old, new = (Key.of(line) for line in lines)
            except ValueError as error:
                raise Broken("a key rotation is damaged") from error
            _, size, root = checkpoint_of(f"{origin}\n{size}\n{root}\n".encode())
            fits = what == "cloche/key-rotation/v1" and old.name == new.name == origin and old != new
            need(fits and signed_text(note, old) and signed_text(note, new), "a key rotation is damaged")
            follows = not self.keys or self.keys[-1][1] == old and self.promises[-1][0] < size
            need(follows, "the key rotations do not follow from each other")
            self.keys = [*(self.keys or [(0, old)]), (size, new)]
            self.promises.append((size, root, "a key rotation"))
        self.keys = self.keys or [(0, pinned)]
        need(pinned in [key for _, key in self.keys], "the pinned key is none of this log's keys")

    def at(self, size):
        return next(key for since, key in reversed(self.keys) if since <= size)

    def checkpoint(self, note):
        """Size and root of a checkpoint that is signed by the key of its size. Raises Broken."""
        _, size, _ = checkpoint_of(note.partition(b"\n\n")[0])
        key = self.at(size)
        origin, size, root = checkpoint_of(signed_text(note, key))
        need(origin == key.name, "a checkpoint belongs to another log")
        return size, root


def check_predecessor(note, key):
    """The note about the log before this one is there if and only if the name says so, and fits the name."""
    need(bool(note) == ("~" in key.name), "the log's name and the note about its predecessor contradict each other")
    if note:
        what, name, reason, origin, size, root, old = signed_text(note, key).decode()[:-1].split("\n")
        text = f"{origin}\n{size}\n{root}\n".encode()
        fits = what == "cloche/new-origin/v1" and name == key.name and reason in ("lost", "stolen", "restored")
        fits = fits and checkpoint_of(text)[0] == Key.of(old).name and name.endswith("~" + sha(text).hex()[:16])
        need(fits, "the note about the log's predecessor is damaged")


# --- Sections 1 and 5: the log -------------------------------------------------------------------------------------


def connect(path):
    """The database, read in one transaction. A closed log on a medium that cannot be written has no locks to take."""
    wal = Path(f"{path}-wal")
    alone = not wal.exists() or not wal.stat().st_size
    for options in ["", "&immutable=1"] if alone else [""]:
        database = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro{options}", uri=True, isolation_level=None)
        try:
            database.text_factory = bytes
            for statement in "PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON", "BEGIN":
                database.execute(statement)
            kinds = {row[0] for row in database.execute("SELECT type FROM pragma_table_list WHERE schema = 'main'")}
            need(kinds == {b"table"}, "a table of the log is none: its rows may change while one looks")
            return database
        except BaseException as error:
            database.close()
            if not (alone and not options and "unable to open" in str(error)):
                raise
    raise OSError("the log cannot be opened")


def rows_of(database, query, *values):
    """Rows of which each value must be bytes, but for the first of an entry's four: its sequence."""
    for row in database.execute(query, values):
        fits = all(type(value) is bytes for value in row[len(row) == 4 :]) and type(row[0]) in (int, bytes)
        need(fits, "a row does not hold what it must hold")
        yield row


def verify(path, key_line, high_water=None, witness=None):
    """Section 5, whole. `high_water` is the path of the mark, `witness` a signed checkpoint that was kept elsewhere."""
    tree, database = Tree(), None
    try:
        pinned = Key.of(key_line)
        mark = Path(high_water).read_bytes() if high_water else None
        need(Path(path).is_file(), "there is no log")
        database = connect(path)
        check_log(database, tree, pinned, mark, witness)
    except Broken as broken:
        at = tree.size if broken.at is None else broken.at
        return Verdict(min(at, tree.size), at, broken.why)
    except DAMAGED as error:
        return Verdict(tree.size, tree.size, f"the file is damaged: {error}")
    finally:
        if database:
            database.close()
    return Verdict(tree.size, None, "")


def check_log(database, tree, pinned, mark, witness):
    """Steps 2 to 5. Raises Broken."""
    ((frontier, note, _),) = rows_of(database, "SELECT frontier, note, key FROM head")
    keys = Keys(pinned, [note for (note,) in rows_of(database, "SELECT note FROM rotations ORDER BY size")])
    newest, root = keys.checkpoint(note)
    promises = [(newest, root, "the newest checkpoint"), *keys.promises]
    if mark is not None:
        promises.append((*keys.checkpoint(mark.rstrip(b"\0")), "the high-water mark"))
    if witness is not None:
        promises.append((*keys.checkpoint(witness), "the checkpoint kept elsewhere"))
    check_predecessor(next(rows_of(database, "SELECT note FROM predecessor"), [b""])[0], keys.keys[0][1])
    check_manifests(database)
    last = 0
    for (note,) in rows_of(database, "SELECT note FROM checkpoints ORDER BY size"):
        try:
            size, root = keys.checkpoint(note)
            need(size >= last, "the older checkpoints are out of order")
            last, promise = size, (size, root, "an older checkpoint")
        except Broken as broken:  # the one before it may yet vouch for entries: this one is due right after it
            promise = (last, None, broken.why)
        promises.append(promise)
    promises.sort(key=lambda promise: (promise[0], promise[1] is None))
    check_entries(database, tree, sha(pinned.name.encode()), promises)
    need(tree.size <= newest, "no checkpoint is signed for it", newest)
    edge = b"".join(root for _, root in tree.stack)
    need(frontier == edge, "head.frontier does not follow from the entries", max(tree.size - 1, 0))


def check_entries(database, tree, origin, promises):
    """Steps 3 to 5: the entries one by one, and each promise (size, root, whose) where its size is reached."""
    good, stored, due = 0, 0, promises[::-1]

    def settle(good):
        reached = False
        while due and due[-1][0] <= tree.size:
            _, root, whose = due.pop()
            last = max(tree.size - 1, 0)
            need(root is not None, whose)
            need(root == tree.root(), f"entries {good} to {last} are not those of {whose}", good)
            reached = True
        return tree.size if reached else good

    good = settle(good)
    query = "SELECT sequence, header, body, leaf FROM entries ORDER BY sequence"
    for sequence, header, body, leaf in rows_of(database, query):
        need(sequence == tree.size, "it is missing, or out of order")
        check_header(header, len(body), origin, sequence)
        need(sha(b"\0", header, sha(body)) == leaf, "its bytes are not those that were logged")
        for level, place, root in tree.add(leaf):
            found = rows_of(database, "SELECT hash FROM subtrees WHERE level = ? AND place = ?", level, place)
            need(next(found, None) == (root,), "it belongs to another subtree", max(good, place << level))
            stored += 1
        good = settle(good)
    need(not due, f"it is missing: {due[-1][2]} says {due[-1][0]} entries" if due else "")
    ((count,),) = database.execute("SELECT count(*) FROM subtrees")
    need(count == stored, "subtrees are stored that no entries have")


def check_header(header, length, name, expected):
    """Section 2: the rules of a header. Raises Broken."""
    need(len(header) == HEADER.size, "its header is damaged")
    version, suite, kind, size, origin, sequence, segment, index = HEADER.unpack(header)
    known = version == 1 and suite in (1, 2) and kind <= 3 and size <= 6 and index <= 4096
    need(known, "its header has values that no version has written")
    need(origin == name and sequence == expected, "it was written for another place, or another log")
    fits = (kind == 0) == (index == 0) == (segment == sequence) and segment <= sequence
    need(fits, "its segment and its index contradict each other")
    need(length == (1024 << size) + (28 if kind else 0), "its body is not as long as its size class says")


def check_manifests(database):
    """Section 8: in a carried copy, each manifest gives the root that it stands under. Raises Broken."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'manifests'").fetchone():
        for root, data in rows_of(database, "SELECT root, leaves FROM manifests"):
            check_manifest(root, data)


def check_manifest(root, data):
    """The leaves of a manifest, where they are whole, in order between both sentinels, and give its root."""
    leaves, tree = [data[at : at + 64] for at in range(0, len(data), 64)], Tree()
    for leaf in leaves:
        tree.add(sha(b"\0", leaf))
    ends = len(leaves) > 1 and leaves[0] == b"\0" * 64 and leaves[-1] == b"\xff" * 64
    fits = ends and len(data) % 64 == 0 and leaves == sorted(set(leaves)) and tree.root() == root
    need(fits, f"the leaves of manifest {root.hex()[:16]} do not give its root")
    return leaves


# --- Section 4, proof files ----------------------------------------------------------------------------------------


def proof_file(data, lead):
    """(number, hashes, note) of a file: `lead`, a number, a line for each hash, an empty line, a signed note."""
    head, gap, note = data.partition(b"\n\n")
    need(head.startswith(lead) and gap and note, "this is no proof of the kind")
    try:
        number, *lines = head.removeprefix(lead).decode("ascii").split("\n")
        need(NUMBER.fullmatch(number) and len(lines) <= 63, "a line of the proof is damaged")
        return int(number), [strict_base64(line, 32) for line in lines], note
    except ValueError as error:
        raise Broken("a line of the proof is damaged") from error


def check_inclusion(data, keys, leaf):
    """Index and size, where the proof shows an entry in a signed tree. `leaf` gives the leaf hash of an index."""
    index, proof, note = proof_file(data, b"c2sp.org/tlog-proof@v1\nindex ")
    size, root = keys.checkpoint(note)
    led = index < size and root_by_inclusion(leaf(index), index, size, proof)
    need(led == root, "the proof does not lead from the entry to the signed root")
    return index, size


def check_consistency(data, keys, old_note):
    """Both sizes, where the proof shows the older signed tree to be the beginning of the newer."""
    old, proof, note = proof_file(data, b"old ")
    size, root = keys.checkpoint(note)
    old_size, old_root = keys.checkpoint(old_note)
    need(old == old_size <= size, "the proof is not about this older checkpoint")
    led = roots_by_consistency(old, size, old_root, proof) if old else (sha(), b"" if proof else root)
    need(led == (old_root, root), "the newer checkpoint does not continue the older")
    return old, size


# --- Section 8, proofs of absence -----------------------------------------------------------------------------------


def check_absence(data, pinned):
    """(model, patients, manifests, size), where a file shows that no mark of a patient is in any manifest."""
    try:
        file = json.loads(data)
        notes = [file["statement"].encode(), file["checkpoint"].encode()]
        keys = Keys(pinned, [note.encode() for note in file["rotations"]])
        held = {bytes.fromhex(one["root"]): one for one in file["manifests"]}
        size, root = keys.checkpoint(notes[1])
        text = signed_text(notes[0], keys.at(size), len(notes[0])).decode()
        head, *lines = text.removesuffix("\n").split("\n")
        need(head == "cloche/absence/v1" and file["format"] == head, "the statement is not one of absence")
        need(checkpoint_of("\n".join(lines[:3]).encode()) == (keys.at(size).name, size, root), "of another checkpoint")
        facts = [tuple(line.split(" ")) for line in lines[3:]]
        (_, model), _ = facts[:2]
        marks = {name: strict_hex(mark) for _, name, mark in (fact for fact in facts if fact[0] == "patient")}
        wanted = {strict_hex(one): (int(entry), int(count)) for _, one, entry, count in facts[2 + len(marks) :]}
        order = ["model", "digest", *["patient"] * len(marks), *["manifest"] * len(wanted)]
        need([fact[0] for fact in facts] == order and marks and wanted, "the statement's lines are not in order")
        need(held.keys() == wanted.keys() and len(held) == len(file["manifests"]), "the manifests are not those stated")
        for one, (entry, count) in wanted.items():
            leaves = check_manifest(one, base64.b64decode(held[one]["leaves"], validate=True))
            need(len(leaves) == count, "the leaves of a manifest are not as many as stated")
            need(not {leaf[:32] for leaf in leaves} & {*marks.values()}, "the patient is in a manifest")
            header, body = bytes.fromhex(held[one]["header"]), strict_hex(held[one]["body"])
            need(len(header) == HEADER.size and entry < size, "an entry's header is damaged")
            _, _, kind, _, origin, sequence, _, _ = HEADER.unpack(header)
            fits = (kind, origin, sequence) == (1, sha(keys.at(size).name.encode()), entry)
            path = [strict_hex(node) for node in held[one]["path"]]
            fits = fits and root_by_inclusion(sha(b"\0", header, body), entry, size, path) == root
            need(fits, "the entry that froze a manifest does not stand in the log")
    except (KeyError, TypeError, AttributeError, struct.error) as error:
        raise Broken("this is no proof of absence, or it is damaged") from error
    return model, ", ".join(marks), len(wanted), size


def strict_hex(text):
    """32 bytes of hex. Raises ValueError."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("hex")
    return bytes.fromhex(text)


# --- Sections 6 and 7: reading with a recipient's private key --------------------------------------------------------


def read(rows, suite, private):
    """The events that a recipient's private key opens: (sequence, event) out of rows (sequence, header, body)."""
    curve = x25519.X25519PrivateKey.from_private_bytes(private[-32:])
    public, kem, length, key = curve.public_key().public_bytes_raw(), hpke.KEM.X25519, 80, curve
    if suite == 1:
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:-32])
        public, kem, length = lattice.public_key().public_bytes_raw() + public, hpke.KEM.MLKEM768_X25519, 1168
        key = hpke.MLKEM768X25519PrivateKey(lattice, curve)
    sealing = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    key_id, chains = sha(bytes([suite]), public)[:16], {}
    for sequence, header, body in rows:
        _, _, kind, _, _, _, segment, _ = HEADER.unpack(header)
        if kind == 0:
            starts = [33 + i * (16 + length) for i in range(body[32])]
            sealed = next(body[at + 16 : at + 16 + length] for at in starts if body[at : at + 16] == key_id)
            secret = sealing.decrypt(sealed, key, info=b"cloche/audit/v1/opening\0" + header)
            need(body[:32] == sha(b"cloche/audit/v1/commitment\0", secret), "the secret is not the promised one")
            kdf = HKDF(hashes.SHA256(), 32, salt=sha(header), info=b"cloche/audit/v1/chain\0")
            chains[segment] = kdf.derive(secret)
            continue
        both = HKDFExpand(hashes.SHA256(), 64, b"cloche/audit/v1/step\0").derive(chains[segment])
        chains[segment] = both[32:]
        plain = AESGCM(both[:32]).decrypt(body[:12], body[12:], header)
        yield sequence, json.loads(plain[4 : 4 + int.from_bytes(plain[:4], "big")])


# --- The command -----------------------------------------------------------------------------------------------------


def main(arguments):
    """Check what the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(description="Verify an audit log of Cloche, or a proof out of it.")
    parser.add_argument("log", nargs="?", type=Path, help="the log's database, or a carried copy of it")
    parser.add_argument("--key", required=True, help="the public key line that was noted, or a file that holds it")
    for name, text in {
        "--high-water": "the high-water mark that stood beside the log",
        "--witness": "a checkpoint that was kept elsewhere",
        "--inclusion": "a proof (tlog-proof) that an entry stands in the log",
        "--consistency": "a proof that the log continues the checkpoint of --old",
        "--old": "the older checkpoint",
        "--absence": "a proof that a patient's data is in no manifest behind a model",
    }.items():
        parser.add_argument(name, type=Path, help=text, metavar="FILE")
    parser.add_argument("--leaf", type=bytes.fromhex, help="the entry's leaf hash in hex, where there is no LOG")
    given = parser.parse_args(arguments)
    if not (given.log or (given.inclusion and given.leaf) or given.consistency or given.absence):
        parser.error("give a LOG, or --inclusion with --leaf, or --consistency with --old, or --absence")
    if given.consistency and not given.old:
        parser.error("--consistency needs --old")
    try:
        line = Path(given.key).read_text() if Path(given.key).is_file() else given.key
        if given.log:
            witness = given.witness.read_bytes() if given.witness else None
            verdict = verify(given.log, line, given.high_water, witness)
            if verdict.at is not None:
                print(f"FAILED at entry {verdict.at}: {verdict.why}")
                return 4
            print(f"intact: {verdict.size} entries")
        check_proofs(given, line)
    except (Broken, *DAMAGED) as error:
        print(f"FAILED: {error}")
        return 4
    return 0


def check_proofs(given, line):
    """Hold the proof files among the arguments against the key, and against the log where one is given."""
    leaves, notes = {}, []
    if given.log:
        database = connect(given.log)
        notes = [note for (note,) in rows_of(database, "SELECT note FROM rotations ORDER BY size")]
        leaves = dict(database.execute("SELECT sequence, leaf FROM entries"))
        database.close()
    keys = Keys(Key.of(line), notes)
    if given.inclusion:
        found = check_inclusion(given.inclusion.read_bytes(), keys, lambda index: given.leaf or leaves.get(index, b""))
        print("intact: entry {} is among {}".format(*found))
    if given.consistency:
        found = check_consistency(given.consistency.read_bytes(), keys, given.old.read_bytes())
        print("intact: {} entries, continued to {}".format(*found))
    if given.absence:
        found = check_absence(given.absence.read_bytes(), Key.of(line))
        print("intact: model {} learned from nothing of {}: {} manifests, in a log of {} entries".format(*found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
