"""Segments: how a process writes events that it cannot read back.

A segment opens with a fresh secret, sealed to every recipient by HPKE (RFC 9180). From it a ratchet derives one key
an event; the writer keeps only the next link. One asymmetric operation a segment and recipient; per event one HKDF
and one AES-256-GCM.

The promise, no more: if the writer's memory leaks later, earlier events stay sealed, later ones of that segment do
not. Python cannot guarantee erasure. Authenticity comes from checkpoints, not from here.
"""

import hmac
import secrets
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from audit.entry import (
    EVENT,
    NONCE_BYTES,
    OPENING,
    SEGMENT_EVENTS,
    SIZES,
    VERSION,
    Entry,
    Header,
    pad,
    size_class_of,
    unpad,
)
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.keys import SUITES, KeyPair, Recipient

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

SEGMENT_SECONDS = 24 * 3600
"""Life of a segment at most."""
_INFO = b"cloche/audit/v1/opening\x00"
_COMMIT = b"cloche/audit/v1/commitment\x00"
_CHAIN = b"cloche/audit/v1/chain\x00"
_STEP = b"cloche/audit/v1/step\x00"
_SECRET_BYTES, _ID_BYTES = 32, 16
_SEALED_BYTES = {1: 1168, 2: 80}
"""Bytes of a sealed secret by suite: the KEM's encapsulation, 32 bytes of secret, 16 of tag."""


def _hpke(suite: int) -> "Suite":
    from cryptography.hazmat.primitives import hpke

    kem = {1: hpke.KEM.MLKEM768_X25519, 2: hpke.KEM.X25519}[suite]
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _step(chain: bytes) -> tuple[bytes, bytes]:
    """One turn of the ratchet: the key of this event, and the chain key of the next. Source: RFC 5869, expand."""
    first = hmac.digest(chain, _STEP + b"\x01", "sha256")  # a third of what HKDFExpand's object costs, a million times
    return first, hmac.digest(chain, first + _STEP + b"\x02", "sha256")


def _first_chain(secret: bytes, header: bytes) -> bytes:
    """The chain key of event 1, bound to the opening's header. Source: RFC 5869."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt=sha256(header).digest(), info=_CHAIN).derive(secret)


def common_suite(recipients: Sequence[Recipient]) -> int:
    """The suite that all recipients share.

    Raises:
        Refused: there are fewer than two, or two are the same key. One lost key must not blind the log.
        BadInput: they have different suites: the weaker would decide for all.
    """
    if len({recipient.key_id for recipient in recipients}) < 2 or len(recipients) > 16:
        raise Refused(
            "a log needs two to sixteen different recipients, so that one lost key does not lock it for ever",
            where=f"{len(recipients)} given",
            hint="make a second key pair with cloche audit keygen and keep it somewhere else",
        )
    suites = {recipient.suite for recipient in recipients}
    if len(suites) > 1:
        raise BadInput("the recipients' keys are of different suites", hint="cloche audit keygen --suite, one for all")
    return SUITES[suites.pop()]


def seal_to(recipient: Recipient, secret: bytes, info: bytes) -> bytes:
    """A secret that only the recipient opens, and only in the context `info`. Source: RFC 9180, base mode.

    Raises:
        BadInput: the public key is none that can be sealed to.
    """
    try:
        return _hpke(SUITES[recipient.suite]).encrypt(secret, recipient.key(), info=info)
    except ValueError as error:  # such as a point of low order
        raise BadInput(
            "the public key is damaged", where=recipient.name, hint="take an undamaged copy of it"
        ) from error


def open_with(pair: KeyPair, sealed: bytes, info: bytes) -> bytes:
    """The secret of `seal_to`. Raises cryptography's InvalidTag where key, bytes or context are others."""
    return _hpke(SUITES[pair.recipient.suite]).decrypt(sealed, pair.key(), info=info)


def check_recipients(recipients: Sequence[Recipient]) -> None:
    """See that a log can be sealed to these, before anything depends on it. Raises as `common_suite`, and BadInput."""
    common_suite(recipients)
    for recipient in recipients:
        seal_to(recipient, b"", b"cloche/audit/v1/trial\x00")


class Segment:
    """The writing end of one segment."""

    def __init__(self, origin: bytes, sequence: int, recipients: Sequence[Recipient]) -> None:
        """Open a segment at `sequence` of the log whose origin hashes to `origin`; `opening` is its first entry."""
        self._suite = common_suite(recipients)
        self._origin, self._number, self._index = origin, sequence, 0
        self._until = time.monotonic() + SEGMENT_SECONDS
        secret = secrets.token_bytes(_SECRET_BYTES)
        length = _SECRET_BYTES + 1 + len(recipients) * (_ID_BYTES + _SEALED_BYTES[self._suite])
        size_class = size_class_of(length)
        header = Header(VERSION, self._suite, OPENING, size_class, origin, sequence, sequence, 0).to_bytes()
        parts = [sha256(_COMMIT + secret).digest(), bytes([len(recipients)])]
        for recipient in recipients:
            parts += [recipient.key_id, seal_to(recipient, secret, _INFO + header)]
        self.opening = Entry(header, b"".join(parts).ljust(SIZES[size_class], b"\x00"))
        """The entry to store before any event of the segment."""
        self._chain = _first_chain(secret, header)

    @property
    def spent(self) -> bool:
        """Whether the segment has reached its end, by count or by age."""
        return self._index >= SEGMENT_EVENTS or time.monotonic() > self._until

    def seal(self, sequence: int, payload: bytes, class_: int = EVENT) -> Entry:
        """Seal one event's bytes as entry `sequence`; the key is gone afterwards. Raises BadInput if too long."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        size_class = size_class_of(len(payload))
        self._index += 1
        header = Header(
            VERSION, self._suite, class_, size_class, self._origin, sequence, self._number, self._index
        ).to_bytes()
        key, self._chain = _step(self._chain)
        nonce = secrets.token_bytes(NONCE_BYTES)
        return Entry(header, nonce + AESGCM(key).encrypt(nonce, pad(payload, size_class), header))


class SegmentReader:
    """The reading end of one segment, for a recipient."""

    def __init__(self, chain: bytes, number: int) -> None:
        self._chain, self._number, self._index = chain, number, 0

    @classmethod
    def open(cls, opening: Entry, pair: KeyPair) -> "SegmentReader | None":
        """Open a segment with a private key; None where it was not sealed to this key.

        Raises:
            IntegrityFailure: the opening is malformed, or its secret is not the one it commits to.
        """
        from cryptography.exceptions import InvalidTag

        header = Header.from_bytes(opening.header)
        sealed = sealed_secrets(opening).get(pair.recipient.key_id)
        if sealed is None or header.suite != SUITES[pair.recipient.suite]:
            return None
        try:
            secret = open_with(pair, sealed, _INFO + opening.header)
        except InvalidTag as error:
            raise IntegrityFailure("a segment's secret does not open", where=f"entry {header.sequence}") from error
        if sha256(_COMMIT + secret).digest() != opening.body[:32]:
            raise IntegrityFailure("a segment's secret is not the promised one", where=f"entry {header.sequence}")
        return cls(_first_chain(secret, opening.header), header.segment)

    @property
    def exhausted(self) -> bool:
        """Whether no further entry can come."""
        return self._index >= SEGMENT_EVENTS

    def read(self, entry: Entry) -> bytes:
        """The event's bytes; entries of a segment are read in order.

        Raises:
            IntegrityFailure: an entry of the segment is missing before it, or it does not decrypt.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        header = Header.from_bytes(entry.header)
        if header.segment != self._number or header.ordinal != self._index + 1:
            raise IntegrityFailure("an entry of the segment is missing", where=f"before entry {header.sequence}")
        self._index += 1
        key, self._chain = _step(self._chain)
        nonce, sealed = entry.body[:NONCE_BYTES], entry.body[NONCE_BYTES:]
        try:
            return unpad(AESGCM(key).decrypt(nonce, sealed, entry.header))
        except (InvalidTag, ValueError) as error:  # the latter where the body is too short to be sealed
            raise IntegrityFailure("an entry does not decrypt", where=f"entry {header.sequence}") from error


def sealed_secrets(opening: Entry) -> dict[bytes, bytes]:
    """Key id -> sealed secret of a segment's opening. Raises IntegrityFailure where it is malformed."""
    header = Header.from_bytes(opening.header)
    length = _SEALED_BYTES.get(header.suite)
    if length is None or header.class_ != OPENING or len(opening.body) <= _SECRET_BYTES:
        raise IntegrityFailure("this is no segment opening", where=f"entry {header.sequence}")
    count = opening.body[_SECRET_BYTES]
    one, start = _ID_BYTES + length, _SECRET_BYTES + 1
    if start + count * one > len(opening.body):
        raise IntegrityFailure("a segment opening is cut short", where=f"entry {header.sequence}")
    rows = [opening.body[start + i * one : start + (i + 1) * one] for i in range(count)]
    return {row[:_ID_BYTES]: row[_ID_BYTES:] for row in rows}
