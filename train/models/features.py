"""Features once: what the frozen tower says of an image, computed once and shared by all its uses."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

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

    def _get(self, image_id: str) -> tuple[Visual, Grid]:
        if image_id in self.kept:
            self.kept.move_to_end(image_id)
            return self.kept[image_id]
        family = self.loaded.family
        fitted = family.fitted(self.image(image_id))
        entry = (family.features(self.loaded.model, fitted), family.grid(fitted))
        self.computed += 1
        self.kept[image_id] = entry
        self.held += entry[0].nbytes
        while self.held > self.budget and len(self.kept) > 1:
            _, (old, _) = self.kept.popitem(last=False)
            self.held -= old.nbytes
        return entry
