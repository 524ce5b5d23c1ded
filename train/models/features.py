"""Features once: what the frozen tower says of an image, computed once and shared by all its uses."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from PIL import Image

from train.models.family import Grid, Visual
from train.models.loading import Loaded


class Features:
    """Visual tokens by image id, least recently used dropped beyond a budget.

    Args:
        loaded: the model whose tower is asked.
        image: opens an image by id (from the vault).
        budget_mb: memory for kept features, in MiB.
    """

    def __init__(self, loaded: Loaded, image: Callable[[str], Image.Image], budget_mb: int = 2048) -> None:
        self.loaded, self.image, self.budget = loaded, image, budget_mb << 20
        self.kept: OrderedDict[str, tuple[Visual, Grid]] = OrderedDict()
        self.held = self.computed = 0

    def of(self, image_id: str) -> Visual:
        """What the tower says of an image."""
        return self._get(image_id)[0]

    def grid(self, image_id: str) -> Grid:
        """What an image is cut into."""
        return self._get(image_id)[1]

    def stack(self, image_ids: Iterable[str]) -> Visual | None:
        """What the tower says of several images, one after the other; None for none."""
        return Visual.joined(self.of(i) for i in image_ids)

    def live(self) -> "Features":
        """The same images for a tower that learns: computed anew at each use, with gradients, and never kept."""
        return Live(self.loaded, self.image)

    def _get(self, image_id: str) -> tuple[Visual, Grid]:
        if image_id in self.kept:
            self.kept.move_to_end(image_id)
            return self.kept[image_id]
        family = self.loaded.family
        fitted = family.fitted(self.image(image_id))
        with torch.no_grad():
            entry = (family.features(self.loaded.model, fitted), family.grid(fitted))
        self.computed += 1
        self.kept[image_id] = entry
        self.held += entry[0].nbytes
        while self.held > self.budget and len(self.kept) > 1:
            _, (old, _) = self.kept.popitem(last=False)
            self.held -= old.nbytes
        return entry


class Live(Features):
    """Visual tokens that gradients go through, in place of features once."""

    def __init__(self, loaded: Loaded, image: Callable[[str], Image.Image]) -> None:
        super().__init__(loaded, image, 0)
        self.grids: dict[str, Grid] = {}

    def grid(self, image_id: str) -> Grid:
        """What an image is cut into; the tower is not asked."""
        if image_id not in self.grids:
            family = self.loaded.family
            self.grids[image_id] = family.grid(family.fitted(self.image(image_id)))
        return self.grids[image_id]

    def stack(self, image_ids: Iterable[str]) -> Visual | None:
        """See Features; an image that occurs twice is computed once."""
        names = list(image_ids)
        seen = {name: self.of(name) for name in dict.fromkeys(names)}
        return Visual.joined(seen[name] for name in names)

    def _get(self, image_id: str) -> tuple[Visual, Grid]:
        family = self.loaded.family
        fitted = family.fitted(self.image(image_id))
        self.computed += 1
        return family.features(self.loaded.model, fitted), family.grid(fitted)


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
