"""What a use of the vault gives: objects that can be read until it is over."""

from collections.abc import Callable, Iterator, Sequence

from audit.errors import IntegrityFailure, Refused
from audit.rows import StoredObject


class Opened:
    """Objects whose use is in the log; they can be read until the `with` block of `Vault.use` ends."""

    def __init__(self, objects: Sequence[StoredObject], chunks: Callable[[str], Iterator[bytes]]) -> None:
        """Objects, and what gives the chunks of one by its id."""
        self._objects, self._chunks = {stored.id: stored for stored in objects}, chunks
        self._over = False

    @property
    def ids(self) -> list[str]:
        """Ids of the objects, in the order in which they were asked for."""
        return list(self._objects)

    def read(self, object_id: str) -> bytes:
        """The object's bytes. Raises Refused where its use is not logged, IntegrityFailure where it was changed."""
        return b"".join(self.chunks(object_id))

    def chunks(self, object_id: str) -> Iterator[bytes]:
        """The object's bytes in chunks of 1 MiB, for large ones. Raises as `read`, at the chunk concerned."""
        if self._over or object_id not in self._objects:
            raise Refused("the use of this object is not in the log, or is over", where=object_id)
        size = 0
        for chunk in self._chunks(object_id):
            size += len(chunk)
            yield chunk
        if size != self._objects[object_id].size:
            raise IntegrityFailure("an object's size is not what the catalogue says", where=object_id)

    def close(self) -> None:
        """End the use."""
        self._over = True
