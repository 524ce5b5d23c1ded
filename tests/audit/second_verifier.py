"""A second verifier and reader, written from docs/audit-format.md alone: it shares no code with audit/.

Run it on a log:  python tests/audit/second_verifier.py LOG "$(cat keys/log.pub)"
"""

import base64
import hashlib
import json
import sqlite3
import struct
import sys

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

HEADER = struct.Struct(">BBBB32sQQI")


def sha(data):
    return hashlib.sha256(data).digest()


def tree_root(leaves):
    """Section 3, as RFC 9162 section 2.1.1 defines it."""
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\x01" + tree_root(leaves[:k]) + tree_root(leaves[k:]))


def checkpoint(note, line):
    """Section 4: size and root of a note signed by the key of `line`."""
    name, _, key = line.split("+", 2)
    public = base64.b64decode(key)[1:]
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    key_hash = sha(name.encode() + b"\n\x01" + public)[:4]
    for signature in signatures.splitlines():
        dash, who, data = signature.split(" ")
        data = base64.b64decode(data)
        if dash == "—" and who == name and data[:4] == key_hash:
            ed25519.Ed25519PublicKey.from_public_bytes(public).verify(data[4:], text.encode())
            origin, size, root = text.splitlines()[:3]
            assert origin == name
            return int(size), base64.b64decode(root)
    raise AssertionError("not signed by this key")


def verify(rows, note, line):
    """Section 5, without the high-water mark: the number of entries of an intact log."""
    origin, leaves = sha(line.split("+")[0].encode()), []
    for expected, (sequence, header, body) in enumerate(rows):
        version, suite, class_, size, of, number, segment, index = HEADER.unpack(header)
        assert version == 1 and suite in (1, 2) and class_ in (0, 1, 2, 3) and size <= 6 and index <= 4096
        assert sequence == number == expected and of == origin and segment <= sequence
        assert (class_ == 0) == (index == 0) == (segment == sequence)
        assert len(body) == (1024 << size) + (0 if class_ == 0 else 28)
        leaves.append(sha(b"\x00" + header + sha(body)))
    size, root = checkpoint(note, line)
    assert size == len(leaves) and root == tree_root(leaves)
    return size


def read(rows, suite, private):
    """Sections 6 and 7: the events that a recipient's private key opens."""
    curve = x25519.X25519PrivateKey.from_private_bytes(private[-32:])
    public, kem, length, key = curve.public_key().public_bytes_raw(), hpke.KEM.X25519, 80, curve
    if suite == 1:
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:-32])
        public, kem, length = lattice.public_key().public_bytes_raw() + public, hpke.KEM.MLKEM768_X25519, 1168
        key = hpke.MLKEM768X25519PrivateKey(lattice, curve)
    sealing = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    key_id, chains = sha(bytes([suite]) + public)[:16], {}
    for sequence, header, body in rows:
        _, _, class_, _, _, _, segment, _ = HEADER.unpack(header)
        if class_ == 0:
            starts = [33 + i * (16 + length) for i in range(body[32])]
            sealed = next(body[at + 16 : at + 16 + length] for at in starts if body[at : at + 16] == key_id)
            secret = sealing.decrypt(sealed, key, info=b"cloche/audit/v1/opening\0" + header)
            assert body[:32] == sha(b"cloche/audit/v1/commitment\0" + secret)
            kdf = HKDF(hashes.SHA256(), 32, salt=sha(header), info=b"cloche/audit/v1/chain\0")
            chains[segment] = kdf.derive(secret)
            continue
        both = HKDFExpand(hashes.SHA256(), 64, b"cloche/audit/v1/step\0").derive(chains[segment])
        chains[segment] = both[32:]
        plain = AESGCM(both[:32]).decrypt(body[:12], body[12:], header)
        yield sequence, json.loads(plain[4 : 4 + int.from_bytes(plain[:4], "big")])


def load(path):
    """Section 1: the rows and the newest checkpoint of a log's file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = connection.execute("SELECT sequence, header, body FROM entries ORDER BY sequence").fetchall()
    note = connection.execute("SELECT note FROM head").fetchone()[0].decode()
    connection.close()
    return rows, note


if __name__ == "__main__":
    print(f"intact: {verify(*load(sys.argv[1]), sys.argv[2].strip()):,} entries")
