"""Features once, on disk: what the tower says of an image, in the vault under the patient's key.

An object of kind ``features`` an image and key (`train.models.features.features_key`), made from that image: it dies
with the patient's key, and `cloche forget` deletes its file. Reading is a use like any other. What does not fit goes:
first other keys' objects, then those of images that this run does not use, least recently used first. What the run
itself has written stays: it reads its images over and over, so the one read longest ago is the one it needs next.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from appliance.jobs.common import RESEARCH, Desk
from appliance.jobs.defaults import FEATURE_CACHE_GB
from audit.conversation import Conversation
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure
from audit.opened import Opened
from audit.rows import NewObject, Run, StoredObject
from train.data.mix import divided, staged
from train.models.family import Family, Grid
from train.rl.grpo import GrpoConfig, Prompt
from train.rl.views import original
from train.sft_config import SftConfig

KIND = "features"
"""Kind of the objects."""
FREE_BYTES = 2 << 30
"""Disk that is left free: the log and the checkpoints come first."""
_BATCH_IMAGES, _BATCH_BYTES, _BATCH_S = 32, 64 << 20, 5.0
"""Features are committed together: so many, of so many bytes or of so many seconds at most."""


class FeatureCache:
    """A run's `FeatureStore` in the vault.

    with FeatureCache(desk, run, features_key(loaded), uses) as cache:
        features = Features(loaded, images_in(opened), store=cache)
    """

    def __init__(
        self,
        desk: Desk,
        run: Run,
        key: str,
        uses: Mapping[str, int],
        budget_gb: float = FEATURE_CACHE_GB,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """For one run.

        Args:
            desk: where it works.
            run: the run that computes and reads them.
            key: what features depend on beside the image.
            uses: how often the run will use each image, by id; transformed ones too. What is used once is read where it
                is there, and not written.
            budget_gb: disk for the features of all runs together, in GB; 0 leaves the cache out.
            clock: seconds.
        """
        self._desk, self._run, self._key, self._clock = desk, run, key, clock
        self._uses, self._budget = dict(uses), int(budget_gb * 1e9)
        self._patients: dict[str, str] = {}
        self._found: dict[str, StoredObject] = {}
        self._victims: list[StoredObject] | None = None
        self._waiting: dict[str, bytes] = {}
        self._since, self._writes = clock(), self._budget > 0
        self._opened: dict[str, Opened] = {}
        self._uses_of_the_vault = ExitStack()
        self.written = self.read = 0

    def __enter__(self) -> Self:
        if not self._budget:
            return self
        catalogue = self._desk.vault.catalogue
        images = catalogue.objects_named(original(name) for name in self._uses)
        self._patients = {one.id: one.patient for one in images if one.patient}
        for one in catalogue.objects(KIND):  # oldest first: of two processes' the newer one counts
            if self._is_ours(one):
                self._found[str(one.note["image"])] = one
        try:
            catalogue.touch(one.id for one in self._found.values())
        except EnvironmentProblem as error:
            self._stop(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._uses_of_the_vault:
            if kind is None:
                self.flush()

    # -- what `Features` asks for

    def wants(self, image_id: str) -> bool:
        """Whether an image is used again, belongs to a patient, and is not there yet."""
        fresh = image_id not in self._waiting and image_id not in self._found
        known = original(image_id) in self._patients
        return self._writes and fresh and known and self._uses.get(image_id, 0) > 1

    def get(self, image_id: str) -> bytes | None:
        """Packed features, where they are there."""
        if image_id in self._waiting:
            return self._waiting[image_id]
        stored = self._found.get(image_id)
        if stored is None:
            return None
        if stored.id not in self._opened:
            self._open()
        try:
            data = self._opened[stored.id].read(stored.id) if stored.id in self._opened else None
        except IntegrityFailure as error:
            data = None
            if self._desk.vault.catalogue.holds(stored.id):
                self._desk.tell(f"features in the vault cannot be read and are computed again: {error}")
        if data is None:  # another process has dropped it, or it was changed
            self._found.pop(image_id, None)
            return None
        self.read += 1
        return data

    def put(self, image_id: str, data: bytes) -> None:
        """Keep features; they are durable with their batch."""
        if not self.wants(image_id):
            return
        if not self._waiting:
            self._since = self._clock()
        self._waiting[image_id] = data
        full = len(self._waiting) >= _BATCH_IMAGES or sum(map(len, self._waiting.values())) >= _BATCH_BYTES
        if full or self._clock() - self._since >= _BATCH_S:
            self.flush()

    def flush(self) -> None:
        """Commit what waits, in one append. On a full disk the run goes on without."""
        waiting, self._waiting = self._waiting, {}
        if not waiting or not self._writes:
            return
        try:
            chosen = self._fitting(waiting)
            new = [self._new(image_id, waiting[image_id]) for image_id in chosen]
            made = self._desk.vault.put_many(new, actor=self._desk.actor, activity=self._run.kind)
            rows = self._desk.vault.catalogue.objects_named(made)
        except EnvironmentProblem as error:
            self._stop(error)
            return
        self._found |= zip(chosen, rows, strict=True)
        self.written += len(rows)
        if len(chosen) < len(waiting):
            self._writes = False
            known = sum(name in self._found for name in self._uses)
            self._desk.tell(
                f"there is no more room for features on the disk: {known} of {len(self._uses)} images' are kept, the "
                f"others are computed anew; give more with --feature-cache-gb (now {self._budget / 1e9:g}), and keep "
                f"{FREE_BYTES >> 30} GiB of the disk free"
            )

    # -- inside

    def _is_ours(self, one: StoredObject) -> bool:
        image = str(one.note.get("image"))
        owner = self._patients.get(original(image))
        return one.note.get("key") == self._key and image in self._uses and owner == one.patient

    def _new(self, image_id: str, data: bytes) -> NewObject:
        image = original(image_id)
        note = {"key": self._key, "image": image_id, "run": self._run.id}
        return NewObject(KIND, data, self._patients[image], [image], note)

    def _open(self) -> None:
        """Open all that is there and was not opened yet: one event for many."""
        there = {one.id for one in self._desk.vault.catalogue.objects(KIND)}
        self._found = {image: one for image, one in self._found.items() if one.id in there}
        ids = [one.id for one in self._found.values() if one.id not in self._opened]
        detail = {"run": self._run.id, "manifest": self._run.manifest_root}
        use = self._desk.vault.use(ids, RESEARCH, self._desk.actor, self._run.kind, detail)
        try:
            opened = self._uses_of_the_vault.enter_context(use)
        except BadInput:
            if all(self._desk.vault.catalogue.holds(one) for one in ids):
                raise
            self._open()  # another process has dropped one in between
            return
        self._opened |= dict.fromkeys(ids, opened)

    def _fitting(self, waiting: Mapping[str, bytes]) -> list[str]:
        """Of what waits the images that there is room for, once what may go has gone."""
        catalogue = self._desk.vault.catalogue
        sizes = {image_id: len(data) for image_id, data in waiting.items()}
        spare = shutil.disk_usage(self._desk.vault.home).free - FREE_BYTES
        room = min(self._budget - catalogue.bytes_of(KIND), spare)
        room += self._evict(sum(sizes.values()) - room)
        chosen = []
        for image_id, size in sizes.items():
            if size > room:
                break
            chosen.append(image_id)
            room -= size
        return chosen

    def _evict(self, wanted: int) -> int:
        """Delete what may go until so many bytes are free; the bytes that were freed."""
        catalogue = self._desk.vault.catalogue
        if wanted <= 0:
            return 0
        if self._victims is None:
            ours = {one.id for one in self._found.values()}
            others = [one for one in catalogue.objects(KIND) if one.id not in ours]
            self._victims = sorted(others, key=self._rank, reverse=True)  # the last one is the first to go
        gone: list[StoredObject] = []
        while self._victims and sum(one.size for one in gone) < wanted:
            victim = self._victims.pop()
            if catalogue.holds(victim.id):
                gone.append(victim)
        try:
            if gone:
                self._desk.vault.delete([one.id for one in gone], actor=self._desk.actor, activity=self._run.kind)
        except BadInput:
            if all(catalogue.holds(one.id) for one in gone):
                raise
            self._victims = None  # another process has deleted one in between: look again
            return self._evict(wanted)
        return sum(one.size for one in gone)

    def _rank(self, one: StoredObject) -> tuple[bool, str]:
        current = one.note.get("key") == self._key and not self._is_ours(one)
        return current, str(one.note.get("used") or one.created)

    def _stop(self, error: EnvironmentProblem) -> None:
        self._writes, self._waiting = False, {}
        self._desk.tell(f"features are kept in memory only from here on: {error}")


def uses_in_run(
    conversations: Sequence[Conversation], config: SftConfig, groups: Mapping[str, str] | None = None
) -> Counter[str]:
    """How often a run will use each image: once an epoch of a stage that learns it, or a measurement if it is held out.

    Args:
        conversations: all that it is given, those about drawn pictures too: the held-out part is drawn from all.
        groups: record to patient, as `run_sft` takes it.
    Raises: BadInput as `run_sft` does, where nothing can be held out or a stage would be empty.
    """
    learned, held = divided(conversations, config.held_out, config.seed, groups)
    stages = staged(learned, config.stages)
    rows = [len({talk.images or talk.id for talk in talks}) for talks in stages]
    steps = sum(config.epochs * -(-n // config.rows_per_step) for n in rows)
    looks = sum(-(-steps // every) for every in (config.evaluate_every, config.probe_every) if every)
    found: Counter[str] = Counter()
    for talks, times in (*((talks, config.epochs) for talks in stages), (held, looks)):
        for images in {talk.images for talk in talks}:
            found.update(dict.fromkeys(images, times))
    return found


def uses_in_alignment(prompts: Sequence[Prompt], config: GrpoConfig, suffixes: Sequence[str] = ()) -> Counter[str]:
    """How many draws of its prompts each image can expect, rounded up; transformed images too.

    Args:
        suffixes: of the domain's transforms, of which each step draws one.
    """
    drawn = config.steps * config.prompts
    found: Counter[str] = Counter()
    for image, count in Counter(p.image for p in prompts).items():
        found[image] = -(-drawn * count // len(prompts))
        for suffix in suffixes:
            found[image + suffix] = -(-drawn * count // (len(prompts) * len(suffixes)))
    return found


@dataclass(frozen=True)
class CachePlan:
    """What the cache would hold."""

    images: int
    """Images that are used more than once, transformed ones counted too."""
    bytes_an_image: int
    """Mean bytes of one image's features."""
    total: int
    """Bytes of all of them."""
    budget: int
    """Bytes that features may take up on the disk."""

    @property
    def sentence(self) -> str:
        """For a person."""
        if not self.budget:
            return "none, they are kept in memory only"
        if not self.images:
            return "none, each image is used once"
        size = f"{self.images:,} images of {self.bytes_an_image / 1e6:,.2f} MB, {self.total / 1e9:,.2f} GB"
        budget = f"{self.budget / 1e9:,.2f} GB"
        if self.total <= self.budget:
            return f"{size}, within the budget of {budget}"
        fit = self.budget // max(1, self.bytes_an_image)
        return f"{size}; {fit:,} of them fit into the budget of {budget} (--feature-cache-gb)"


def cache_plan(
    family: Family,
    width: int,
    grids: Mapping[str, Grid],
    uses: Mapping[str, int],
    budget_gb: float = FEATURE_CACHE_GB,
    itemsize: int = 4,
) -> CachePlan:
    """State the size of the cache; neither the tower nor the weights are needed for it.

    Args:
        width: hidden size of the language model (``config.get_text_config().hidden_size``).
        grids: of images by id, or of some of them: the others are taken to be like these on average.
        uses: as `FeatureCache` takes it.
        itemsize: bytes of a number: 4 in fp32 (on CPUs), 2 in 16 bits.
    """
    kept = [name for name, count in uses.items() if count > 1]
    named = [grids[original(name)] for name in kept if original(name) in grids]
    sizes = [family.feature_bytes(grid, width, itemsize) for grid in named or grids.values()]
    each = round(sum(sizes) / len(sizes)) if sizes else 0
    return CachePlan(len(kept), each, len(kept) * each, int(budget_gb * 1e9))
