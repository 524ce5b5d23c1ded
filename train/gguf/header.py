"""The head of a GGUF file: read it with every bound checked, and write facts into it without touching a weight.

llama.cpp reads the same bytes again, but some of its checks end the process; a broken file should end in a sentence.
Source: ggml/include/gguf.h, format version 3.
"""

import mmap
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from audit.errors import BadInput
from train.gguf.files import replaced

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 24: (1, 1), 26: (1, 4), 30: (1, 2),
}  # fmt: skip
"""Weights in a block and bytes a block takes, by ggml type number; types not here are checked by llama.cpp alone."""

Fact = str | bool | int | float
Value = Fact | list[Fact]


@dataclass(frozen=True)
class Header:
    """What stands before the weights of a GGUF file."""

    metadata: Mapping[str, Value]
    """Every key with its value."""
    tensors: Mapping[str, tuple[int, ...]]
    """Shape of every tensor, innermost dimension first as in the file."""
    spans: Mapping[str, tuple[int, int]]
    """Where each key's entry lies: first byte, byte after the last."""
    infos: tuple[int, int]
    """Where the tensor descriptions lie."""
    data: int
    """First byte of the weights."""
    alignment: int
    """Weights begin at a multiple of this many bytes."""
    version: int
    """Version of the format, 2 or 3."""


class _Reader:
    """Walks over bytes and refuses to leave them."""

    def __init__(self, data: memoryview | mmap.mmap | bytes, where: str) -> None:
        self.data, self.size, self.where, self.at = data, len(data), where, 0

    def bad(self, why: str) -> BadInput:
        return BadInput(f"this GGUF file is broken: {why}", where=self.where, hint="copy or export the model again")

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self.bad(f"it ends at byte {self.size:,} in the middle of its header")
        found = self.data[self.at : self.at + count]
        self.at += count
        return bytes(found)

    def number(self, form: str) -> int:
        (found,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return found  # type: ignore[no-any-return]

    def string(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Value:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise self.bad(f"a value has the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner == _STRING:
            if count > self.size // 8:
                raise self.bad("a list is longer than the file")
            return [self.string() for _ in range(count)]
        if inner not in _SCALARS:
            raise self.bad(f"a list has the unknown type {inner}")
        form = _SCALARS[inner]
        data = self.take(count * struct.calcsize(form))
        return [item for (item,) in struct.iter_unpack(form, data)]


def read_header(source: Path | bytes) -> Header:
    """Read metadata and tensor descriptions, and check that every tensor lies inside the file.

    Args:
        source: a file, or its bytes.

    Raises:
        BadInput: not a GGUF file, or cut short, or with a description that leads out of it.
    """
    if isinstance(source, bytes):
        return _parse(_Reader(source, "in memory"))
    with _mapped(source) as data:
        return _parse(_Reader(data, str(source)))


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError) as error:
        raise BadInput("there is no readable GGUF file here", where=str(path), hint="name the .gguf file") from error


def _parse(reader: _Reader) -> Header:
    if reader.size < len(MAGIC) or reader.take(len(MAGIC)) != MAGIC:
        raise BadInput("this is not a GGUF file", where=reader.where, hint="name a .gguf file made by cloche export")
    version = reader.number("<I")
    if version not in (2, 3):
        raise reader.bad(f"it has format version {version}; versions 2 and 3 are known")
    tensors, entries = reader.number("<Q"), reader.number("<Q")
    metadata: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(entries):
        start, key = reader.at, reader.string()
        metadata[key] = reader.value(reader.number("<I"))
        spans[key] = (start, reader.at)
    first = reader.at
    shapes, ends = {}, []
    for _ in range(tensors):
        name, dimensions = reader.string(), reader.number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise reader.bad(f"a tensor has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
        kind, offset = reader.number("<I"), reader.number("<Q")
        shapes[name] = shape
        ends.append((name, offset + _bytes_of(shape, kind)))
    infos, alignment = (first, reader.at), metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise reader.bad(f"its alignment is {alignment!r}")
    data = -(-reader.at // alignment) * alignment
    for name, end in ends:
        if data + end > reader.size:
            raise reader.bad(f"tensor {name} ends at byte {data + end:,} and the file at {reader.size:,}")
    return Header(metadata, shapes, spans, infos, data, alignment, version)


def _bytes_of(shape: tuple[int, ...], kind: int) -> int:
    block, size = _BLOCKS.get(kind, (1, 0))
    count = 1
    for side in shape:
        count *= side
    return count // block * size


def stamp(source: Path, out: Path, facts: Mapping[str, Fact]) -> None:
    """Write a copy of a GGUF whose metadata carry these facts; the weights stay the same bytes.

    Args:
        source: the GGUF.
        out: the copy, written whole or not at all; may be ``source``.
        facts: keys such as ``cloche.base`` with text, truth values or numbers; an existing key is replaced.

    Raises:
        BadInput: ``source`` is no sound GGUF, or a key lies outside ``cloche.`` and ``general.``.
    """
    foreign = [key for key in facts if not key.startswith(("cloche.", "general.")) or key == "general.alignment"]
    if foreign:
        raise BadInput(f"the key {foreign[0]} is not ours to write", hint="use keys that begin with cloche.")
    header = read_header(source)
    kept = [span for key, span in header.spans.items() if key not in facts]
    with source.open("rb") as old, replaced(out) as partial, partial.open("wb") as new:
        new.write(MAGIC + struct.pack("<IQQ", header.version, len(header.tensors), len(kept) + len(facts)))
        for start, stop in kept:
            old.seek(start)
            new.write(old.read(stop - start))
        for key, fact in facts.items():
            new.write(_entry(key, fact))
        old.seek(header.infos[0])
        new.write(old.read(header.infos[1] - header.infos[0]))
        new.write(b"\0" * (-new.tell() % header.alignment))
        old.seek(header.data)
        shutil.copyfileobj(old, new, 1 << 20)


def _entry(key: str, fact: Fact) -> bytes:
    name = key.encode()
    head = struct.pack("<Q", len(name)) + name
    if isinstance(fact, bool):
        return head + struct.pack("<I?", 7, fact)
    if isinstance(fact, int):
        return head + struct.pack("<Iq", 11, fact)
    if isinstance(fact, float):
        return head + struct.pack("<Id", 12, fact)
    text = fact.encode()
    return head + struct.pack("<IQ", _STRING, len(text)) + text
