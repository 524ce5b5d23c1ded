"""Write the test vectors of docs/audit-format.md: small logs, and proofs out of one of them, good ones and broken ones.

    python -m tests.vectors.make

Sealing is random, so the output is made once and committed: a file that is there is left as it is. A vector that had
to change would mean that the format has changed. The private keys in here are public; never use them.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

from audit import manifest, store
from audit.actor import Actor
from audit.carry import carry
from audit.checkpoint import Checkpoint, Signer, open_note
from audit.events import Event
from audit.keys import SUITES, KeyPair, generate
from audit.log import Log
from audit.proofs import ConsistencyProof, InclusionProof, Tree
from audit.reading import read
from audit.rotation import Predecessor, new_origin

HERE = Path(__file__).parent
REMARK = "for tests: these private keys are public"
MANIFEST = manifest.to_bytes(
    manifest.leaves(manifest.Item(bytes([mark]) * 32, bytes([mark + 1]) * 32) for mark in (7, 40, 40 + 80))
)


def events(first: int, count: int) -> list[Event]:
    """Plain remarks with a number."""
    return [Event("note", Actor("ada", "steward"), detail={"number": first + n}) for n in range(count)]


def person(pair: KeyPair) -> dict[str, str]:
    """A recipient with its private key."""
    own = pair.recipient
    return {
        "name": own.name,
        "key_id": own.key_id.hex(),
        "public": own.public.hex(),
        "private": pair.private.hex(),
    }


def texts(path: Path, pair: KeyPair, size: int) -> list[str]:
    """The events of a log, as they were sealed."""
    return [one.event.encode().decode() for one in read(path, pair, size) if one.event]


def people() -> tuple[KeyPair, KeyPair]:
    """Auditor and recovery holder of suite X25519, whose entries are small."""
    return generate("auditor", "X25519"), generate("recovery", "X25519")


def described(path: Path, signers: list[Signer], pairs: tuple[KeyPair, KeyPair]) -> dict[str, object]:
    """What a reader of a log's file needs and should find."""
    connection = store.reader(path)
    tree, note = Tree(connection), store.head(connection).note
    connection.close()
    return {
        "file": path.name,
        "remark": REMARK,
        "suite": pairs[0].recipient.suite,
        "log_keys": [signer.key.to_text() for signer in signers],
        "log_private_keys": [signer.to_bytes().hex() for signer in signers],
        "checkpoint": note.decode(),
        "entries": tree.size,
        "recipients": [person(pair) for pair in pairs],
        "events": texts(path, pairs[0], tree.size),
    }


def suites(work: Path) -> None:
    """One log per suite, row by row."""
    made: list[object] = []
    for number, suite in enumerate(SUITES, start=1):
        pairs = [generate(name, suite) for name in ("auditor", "recovery")]
        signer = Signer.generate(f"cloche/log/{number:016x}")
        with Log.create(work / suite, signer, [p.recipient for p in pairs], work / f"mark-{suite}") as log:
            log.append_many(events(0, 2))
        connection = store.reader(work / suite)
        tree, entries = Tree(connection), list(store.entries(connection))
        vector = {
            "suite": suite,
            "remark": REMARK,
            "log_key": signer.key.to_text(),
            "checkpoint": store.head(connection).note.decode(),
            "recipients": [person(pair) for pair in pairs],
            "events": texts(work / suite, pairs[0], tree.size),
            "rows": [
                {
                    "header": entry.header.hex(),
                    "body": entry.body.hex(),
                    "leaf": leaf.hex(),
                    "root": tree.root(sequence + 1).hex(),
                }
                for sequence, entry, leaf in entries
            ],
        }
        connection.close()
        made.append(vector)
    write("logs.json", made)


def logs(work: Path) -> None:
    """A log that was handed over to a second key; one that goes on from it, carried with a manifest; a plain one."""
    pairs = people()
    recipients = [pair.recipient for pair in pairs]
    first = Signer.generate("cloche/log/0000000000000003")
    second = Signer.generate(first.key.name)
    with Log.create(work / "rotated", first, recipients, work / "mark") as log:
        log.append_many(events(0, 4))
        log.rotate(second, Event("keys.changed", Actor("ada", "operator"), detail={"number": 4}))
        log.append(events(5, 1)[0])
    with Log(work / "rotated", second, recipients, work / "mark") as log:
        log.append_many(events(6, 3))
        last = open_note(log.checkpoint(), second.key)
    third = Signer.generate(new_origin(last))
    before = Predecessor(third.key.name, "stolen", last, second.key).sign(third)
    with Log.create(work / "restarted", third, recipients, work / "mark-3", predecessor=before) as log:
        log.append_many(events(10, 3))
    made: list[object] = []
    for name, signers, manifests in (("rotated", [first, second], []), ("restarted", [third], [MANIFEST])):
        out = HERE / f"{name}.carry"
        carry(work / name, out, manifests)
        made.append(described(out, signers, pairs))
    write("carried.json", made)


def proofs(work: Path) -> None:
    """Proofs out of a log of 11 entries, each with the verdict that a verifier must come to."""
    pairs = people()
    signer = Signer.generate("cloche/log/0000000000000004")
    with Log.create(work / "plain", signer, [p.recipient for p in pairs], work / "mark-4") as log:
        log.append_many(events(0, 8))
        old = log.checkpoint()
        log.append(events(8, 1)[0])
        middle = log.checkpoint()
        log.append(events(9, 1)[0])
        new = log.checkpoint()
    connection = store.reader(work / "plain")
    tree = Tree(connection)
    leaves = [leaf.hex() for (leaf,) in connection.execute("SELECT leaf FROM entries ORDER BY sequence")]
    inclusions = [
        {"kind": "inclusion", "name": f"entry {index}: {name}", "index": index, "verdict": verdict, "proof": text}
        for index in (5, 10)
        for name, verdict, text in spoiled(InclusionProof(index, tuple(tree.inclusion(index, 11)), new), signer)
    ]
    steps = [
        {"kind": "consistency", "name": name, "verdict": verdict, "proof": text}
        for name, verdict, text in spoiled(ConsistencyProof(9, tuple(tree.consistency(9, 10)), middle), signer)
    ]
    connection.close()
    write(
        "proofs.json",
        {
            "remark": REMARK,
            "log_key": signer.key.to_text(),
            "log_private_key": signer.to_bytes().hex(),
            "leaves": leaves,
            "old": old.decode(),
            "new": new.decode(),
            "proofs": inclusions + steps,
        },
    )


def spoiled(proof: InclusionProof | ConsistencyProof, signer: Signer) -> Iterator[tuple[str, str, str]]:
    """The proof, and what an attacker or a broken disk would make of it: name, verdict, file."""
    name = "index" if isinstance(proof, InclusionProof) else "old_size"
    number: int = getattr(proof, name)
    signed = open_note(proof.note, signer.key)

    def other(what: str, **changes: object) -> tuple[str, str, str]:
        return what, "bad", type(proof)(**{**vars(proof), **changes}).to_bytes().decode()

    def resigned(size: int, root: bytes) -> bytes:
        return signer.sign(Checkpoint(signed.origin, size, root))

    good = proof.to_bytes().decode()
    hashes, last = proof.hashes, good.rindex("=\n", 0, good.index("\n\n"))
    yield "good", "good", good
    yield other("wrong root", note=resigned(signed.size, bytes(32)))
    yield other("siblings swapped", hashes=(hashes[1], hashes[0], *hashes[2:]))
    yield other("siblings in reverse", hashes=hashes[::-1])
    yield other("a hash too many at the end", hashes=(*hashes, hashes[0]))
    yield other("a hash too many at the start", hashes=(hashes[0], *hashes))
    yield other("first hash removed", hashes=hashes[1:])
    yield other("last hash removed", hashes=hashes[:-1])
    yield other("all hashes removed", hashes=())
    yield other("bit flipped in a hash", hashes=(bytes([hashes[0][0] ^ 1]) + hashes[0][1:], *hashes[1:]))
    yield other("number xor 2", **{name: number ^ 2})
    yield other("number one more", **{name: number + 1})
    yield other("number beyond the tree", **{name: signed.size + 1})
    yield other("number without end", **{name: 10**18})
    if number > 8:  # further left the path has the same shape in a tree of one more or less: only its root can tell
        yield other("size one less", note=resigned(signed.size - 1, signed.root))
        yield other("size one more", note=resigned(signed.size + 1, signed.root))
    yield other("signed by another key", note=Signer.generate(signed.origin).sign(signed))
    yield other("signed for another log", note=Signer.generate("cloche/log/other").sign(signed))
    yield other("bit flipped in the signature", note=flipped(proof.note))
    yield other("no signature", note=signed.body())
    yield "trailing garbage", "bad", good + "garbage"
    yield "trailing line", "bad", good + "\n"
    yield "hash cut short", "bad", good[: last - 4] + good[last:]
    yield "hash with a blank", "bad", good[:last] + " " + good[last:]
    yield "hash spelled otherwise", "bad", good[: last - 1] + chr(ord(good[last - 1]) + 1) + good[last:]
    yield "number with a zero before", "bad", good.replace(f" {number}\n", f" 0{number}\n", 1)
    yield "number below zero", "bad", good.replace(f" {number}\n", f" -{number}\n", 1)
    yield "first line changed", "bad", "x" + good
    yield "no checkpoint", "bad", good[: good.index("\n\n") + 2]
    yield "empty", "bad", ""


def flipped(note: bytes) -> bytes:
    """The note with one bit of its signature changed."""
    head, blank, signature = note.decode().rpartition(" ")
    data = bytearray(base64.b64decode(signature))
    data[20] ^= 1
    return (head + blank + base64.b64encode(data).decode() + "\n").encode()


def write(name: str, content: object) -> None:
    """Write a file of vectors."""
    (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Write what is not there yet."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for make, name in ((suites, "logs.json"), (logs, "carried.json"), (proofs, "proofs.json")):
            if not (HERE / name).exists():
                make(Path(folder))


if __name__ == "__main__":
    main()
