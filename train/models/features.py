"""Features once: what the frozen tower says of an image, computed once and shared by all its uses."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from PIL import Image

from train.models.family import Grid, Visual
from train.models.loading import Loaded

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""


class FeatureStore(Protocol):
    """Keeps packed features beyond this process's memory. It may lose any of them: they are computed again."""

    def wants(self, image_id: str) -> bool:
        """Whether it would keep this image's features; where not, they are not even packed."""

    def get(self, image_id: str) -> bytes | None:
        """What was put for an image, or None."""

    def put(self, image_id: str, data: bytes) -> None:
        """Keep an image's packed features, now or a little later."""


class Features:
    """Visual tokens by image id: from memory, else from the store, else from the tower.

    What is kept lies in the host's memory, least recently used dropped beyond a budget. The tower sees one image at a
    time, so that what is kept equals what would be computed anew, bit for bit.

    Args:
        loaded: the model whose tower is asked.
        image: opens an image by id (from the vault).
        budget_mb: memory for kept features, in MiB.
        store: keeps them for longer; None for memory alone.
    """

    def __init__(
        self,
        loaded: Loaded,
        image: Callable[[str], Image.Image],
        budget_mb: int = 2048,
        store: FeatureStore | None = None,
    ) -> None:
        self.loaded, self.image, self.budget, self.store = loaded, image, budget_mb << 20, store
        self.key = features_key(loaded) if store else ""
        self.kept: OrderedDict[str, Visual] = OrderedDict()
        self.grids: dict[str, Grid] = {}
        self.held = self.computed = self.fetched = 0
        self._last: tuple[str, Image.Image] | None = None

    def of(self, image_id: str) -> Visual:
        """What the tower says of an image."""
        if image_id in self.kept:
            self.kept.move_to_end(image_id)
        else:
            self._keep(image_id, self._fetched(image_id) or self._computed(image_id))
        return _moved(self.kept[image_id], self.loaded.device)

    def grid(self, image_id: str) -> Grid:
        """What an image is cut into; the tower is not asked."""
        if image_id not in self.grids:
            self.grids[image_id] = self.loaded.family.grid(self._fitted(image_id))
        return self.grids[image_id]

    def stack(self, image_ids: Iterable[str]) -> Visual | None:
        """What the tower says of several images, one after the other; None for none."""
        return Visual.joined(self.of(i) for i in image_ids)

    def live(self) -> "Features":
        """The same images for a tower that learns: computed anew at each use, with gradients, and never kept."""
        return Live(self.loaded, self.image)

    def _fitted(self, image_id: str) -> Image.Image:
        """The fitted image; the last one is at hand, as its features are often asked for after its grid."""
        if self._last is None or self._last[0] != image_id:
            self._last = image_id, self.loaded.family.fitted(self.image(image_id))
        return self._last[1]

    def _fetched(self, image_id: str) -> Visual | None:
        data = self.store.get(image_id) if self.store else None
        if data is None:
            return None
        try:
            found, self.grids[image_id] = unpacked(data, self._about(image_id))
        except ValueError:
            return None  # cut short, or another image's: the tower knows better
        self.fetched += 1
        return found

    def _computed(self, image_id: str) -> Visual:
        for part in self.loaded.family.vision:
            self.loaded.model.get_submodule(part).eval()  # it may be asked in the middle of a training step
        with torch.no_grad():
            said = self.loaded.family.features(self.loaded.model, self._fitted(image_id))
        found = _moved(said, torch.device("cpu"))
        self.grid(image_id)  # while the image is at hand
        self.computed += 1
        if self.store and self.store.wants(image_id):
            self.store.put(image_id, packed(found, self.grid(image_id), self._about(image_id)))
        return found

    def _keep(self, image_id: str, found: Visual) -> None:
        self.kept[image_id] = found
        self.held += found.nbytes
        while self.held > self.budget and len(self.kept) > 1:
            _, old = self.kept.popitem(last=False)
            self.held -= old.nbytes

    def _about(self, image_id: str) -> str:
        return f"{self.key} {image_id}"


def features_key(loaded: Loaded) -> str:
    """What features depend on beside the image, as one digest, hex.

    The model's files, its family's numbers (the budget of visual tokens among them) and the tower's precision; also
    the kind of device and the libraries, which round differently.
    """
    import transformers

    names = tuple(f"{name}." for name in loaded.family.vision)
    dtype = next(weight.dtype for name, weight in loaded.model.named_parameters() if name.startswith(names))
    made = [loaded.digest, loaded.family.noted(), str(dtype)]
    where = [loaded.device.type, torch.__version__, transformers.__version__]
    return hashlib.sha256(json.dumps([made, where], sort_keys=True, default=str).encode()).hexdigest()


def packed(visual: Visual, grid: Grid, about: str = "") -> bytes:
    """Features as the bytes of a safetensors file, the grid and what they are of in its header."""
    from safetensors.torch import save

    tensors = {"tokens": visual.tokens}
    tensors |= {f"deep.{k}": layer for k, layer in enumerate(visual.deep)}
    tensors |= {f"cross.{k}": states for k, states in enumerate(visual.cross)}
    owned = {name: _owned(tensor) for name, tensor in tensors.items()}
    return save(owned, {"grid": json.dumps(grid), "about": about})


def unpacked(data: bytes, about: str = "") -> tuple[Visual, Grid]:
    """What `packed` wrote.

    Raises:
        ValueError: the bytes are cut short, are no features, or are of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header: Any = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])["__metadata__"]
        rows, columns = map(int, json.loads(header["grid"]))
        if header["about"] != about:
            raise ValueError("these features are of something else")
        tensors = load(data)
        return Visual(tensors["tokens"], _numbered(tensors, "deep"), _numbered(tensors, "cross")), (rows, columns)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError("these bytes are no features") from error


def _numbered(tensors: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, ...]:
    return tuple(tensors[f"{name}.{k}"] for k in range(sum(one.startswith(f"{name}.") for one in tensors)))


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the host in memory of its own: a part of a larger one would keep all of that alive."""
    there = (tensor.detach() if tensor.requires_grad else tensor).to("cpu").contiguous()
    return there if there.untyped_storage().nbytes() == there.nbytes else there.clone()


def _moved(visual: Visual, device: torch.device) -> Visual:
    """The same on a device; to the host, in memory of its own."""
    move = _owned if device.type == "cpu" else lambda tensor: tensor.to(device)
    tensors = [move(tensor) for tensor in visual.tensors]
    if all(new is old for new, old in zip(tensors, visual.tensors, strict=True)):
        return visual
    deep = 1 + len(visual.deep)
    return Visual(tensors[0], tuple(tensors[1:deep]), tuple(tensors[deep:]))


class Live(Features):
    """Visual tokens that gradients go through, in place of features once."""

    def of(self, image_id: str) -> Visual:
        """What the tower says of an image, now."""
        self.computed += 1
        return self.loaded.family.features(self.loaded.model, self._fitted(image_id))

    def stack(self, image_ids: Iterable[str]) -> Visual | None:
        """See Features; an image that occurs twice is computed once."""
        names = list(image_ids)
        seen = {name: self.of(name) for name in dict.fromkeys(names)}
        return Visual.joined(seen[name] for name in names)


def cost_of_live(loaded: Loaded, fitted: Image.Image, images: int, tokens: int, epochs: int) -> float:
    """How many times the work of features once it is to train the tower, too.

    The tower's forward is counted on one image; a frozen Linear that passes gradients on costs its forward twice.

    Args:
        fitted: an image as the tower sees it.
        images: images in an epoch.
        tokens: tokens that the language model reads in an epoch.
        epochs: passes over the data.
    Source: 2 FLOPs a weight and token, arXiv 2001.08361, section 2.1.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loaded.family.features(loaded.model, fitted)
    tower = images * counter.get_total_flops()
    inside = loaded.model.get_submodule(loaded.family.language).modules()
    weights = sum(m.in_features * m.out_features for m in inside if isinstance(m, torch.nn.Linear))
    language = 2 * weights * tokens
    return epochs * 2 * (language + tower) / (epochs * 2 * language + tower)
