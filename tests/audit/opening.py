"""What an adversary with every old file tries after a forgetting: all keys but the destroyed ones."""

import sqlite3

import pytest

from audit import patientkeys, stream
from audit.bag import BagFile
from audit.errors import IntegrityFailure
from audit.vault import Vault


def assert_nothing_opens(home, old, passphrase, gone):
    """Of the objects `gone`, nothing opens in the `old` copy of a home, with all that the new one has left."""
    bag, old_bag = BagFile.open(home, passphrase).bag, BagFile.open(old, passphrase).bag
    assert bag.vault_key != old_bag.vault_key and bag.intent is None
    for path in home.rglob("*"):  # neither the old keys' wrapping nor an old file is in any byte of the new home
        if path.is_file():
            content = path.read_bytes()
            for name, wrapped in rows_of(old):
                assert wrapped not in content, (path, name)
    assert not any((home / "vault/objects" / one[:2] / one).exists() for one in gone)
    wrapped = dict(rows_of(old)) | {f"new {name}": value for name, value in rows_of(home)}
    secrets = [bag.vault_key, bag.naming_key, bag.log_key]
    opened = {
        patientkeys.open_key(secret, name.removeprefix("new "), value)
        for secret in secrets
        for name, value in wrapped.items()
    } - {None}
    assert opened  # those of the others
    with Vault.open(home, passphrase) as vault:
        for object_id in gone:
            stored = vault.catalogue.object(object_id)
            for key in [*opened, *secrets]:
                with (
                    pytest.raises(IntegrityFailure),
                    open(old / "vault/objects" / object_id[:2] / object_id, "rb") as file,
                ):
                    list(stream.open_chunks(blob_key(stored, key), file, "old"))
    # The test can fail: with the destroyed vault key, which only an old copy of the key file has, they do open.
    old_keys = [key for name, value in rows_of(old) if (key := patientkeys.open_key(old_bag.vault_key, name, value))]
    assert len(old_keys) == len(rows_of(old)) and not opened.issuperset(old_keys)


def rows_of(home):
    connection = sqlite3.connect(home / "keys/patients.sqlite")
    try:
        return connection.execute("SELECT patient, wrapped FROM patients").fetchall()
    finally:
        connection.close()


def blob_key(stored, key):
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"cloche/vault/v1/blob\x00" + stored.id.encode() + stored.version.to_bytes(4, "big")
    return HKDF(SHA256(), 32, salt=stored.salt, info=info).derive(key)
