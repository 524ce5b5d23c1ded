"""Messages between a vault's client and the process that holds its keys, over a socket of the AF_UNIX family.

A message is two lengths (4 bytes each, big-endian), a JSON object, and raw bytes. Only JSON values, bytes, tuples and
the value classes named here cross; nothing that is read can make anything else.
"""

import base64
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from audit import errors
from audit.actor import Actor
from audit.checkpoint import VerifierKey
from audit.errors import BadInput, ClocheError
from audit.events import Event
from audit.forgetting import Forgotten, Plan
from audit.keys import Cost, Recipient
from audit.rows import StoredObject
from audit.scrub import Checked, Finding, Step
from audit.witnessed import Imported

PIECE_BYTES = 1 << 20
"""Bytes of data in one message at most."""
_LENGTHS = struct.Struct(">II")
_MOST_HEAD = 64 << 20
_VALUES = {
    cls.__name__: cls
    for cls in (
        Actor,
        Checked,
        Cost,
        Event,
        Finding,
        Forgotten,
        Imported,
        Plan,
        Recipient,
        Step,
        StoredObject,
        VerifierKey,
    )
}
_ERRORS = {one.__name__: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ClocheError)}


class Gone(OSError):
    """The other end closed, between two messages or within one."""


def send(channel: socket.socket, head: Mapping[str, Any], body: bytes = b"") -> None:
    """Send one message. Raises OSError where the other end is gone, BadInput for what cannot be sent."""
    try:
        text = json.dumps(_packed(head), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput("what was asked cannot be sent to the vault's own process") from error
    if len(text) > _MOST_HEAD or len(body) > PIECE_BYTES:
        raise BadInput("what was asked is too long for one message", hint="ask for the same in smaller parts")
    channel.sendall(_LENGTHS.pack(len(text), len(body)) + text)
    if body:
        channel.sendall(body)


def receive(channel: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The next message.

    Raises:
        Gone: there is none, or it is longer than any may be: nothing after it could be told apart.
        BadInput: it is malformed, or one of its values is.
    """
    head, body = _LENGTHS.unpack(_exactly(channel, _LENGTHS.size))
    if head > _MOST_HEAD or body > PIECE_BYTES:
        raise Gone("a message is longer than any may be")
    text, data = _exactly(channel, head), _exactly(channel, body)
    try:
        return dict(_unpacked(json.loads(text))), data
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput("a message to the vault is malformed") from error


def of_error(error: Exception) -> dict[str, Any]:
    """An error as an answer: our own with its words, a bug with its name only, as its words could quote data."""
    if isinstance(error, ClocheError):
        return {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    return {"error": "", "what": type(error).__name__, "where": "", "hint": ""}


def to_error(found: Mapping[str, Any]) -> Exception:
    """The error of such an answer, to be raised again."""
    kind = _ERRORS.get(found["error"])
    if kind is None:
        return RuntimeError(f"a bug in the vault's own process: {found['what']}")
    return kind(found["what"], where=found["where"], hint=found["hint"])


def _packed(value: Any) -> Any:
    """A value in JSON; what JSON does not know stands in a list with its name before it."""
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", *(_packed(one) for one in value)]
    if isinstance(value, Mapping):
        return {key: _packed(one) for key, one in value.items()}
    if type(value) in _VALUES.values():
        held = {field.name: _packed(getattr(value, field.name)) for field in fields(value)}
        return [type(value).__name__, held]
    return value


def _unpacked(value: Any) -> Any:
    """The value of `_packed`. Raises ValueError, KeyError, TypeError, or what a value's own check raises."""
    if isinstance(value, dict):
        return {key: _unpacked(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    name, *rest = value
    if name == "bytes":
        return base64.b64decode(rest[0], validate=True)
    if name in ("list", "tuple"):
        found = [_unpacked(one) for one in rest]
        return found if name == "list" else tuple(found)
    return _VALUES[name](**_unpacked(rest[0]))


def _exactly(channel: socket.socket, count: int) -> bytes:
    held = bytearray(count)
    view, got = memoryview(held), 0
    while got < count:
        try:
            more = channel.recv_into(view[got:])
        except ConnectionError as error:
            raise Gone("the other end is gone") from error
        if not more:
            raise Gone("the other end closed")
        got += more
    return bytes(held)
