"""What the steward's stages share: where the model is, `--dry-run`, and a desk with a progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.jobs.defaults import FEATURE_CACHE_GB
from appliance.starter.where import STARTER

if TYPE_CHECKING:
    from appliance.jobs.common import Desk

MODEL = click.option(
    "--model",
    "model_dir",
    type=click.Path(path_type=Path),
    default=STARTER,
    help="Model directory (safetensors). Default: the starter.",
)
CACHE = click.option(
    "--feature-cache-gb",
    type=click.FloatRange(0),
    default=FEATURE_CACHE_GB,
    show_default=True,
    help="Disk for what the vision tower says of each image, encrypted, in GB; 0 keeps it in memory only.",
)
DRY = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@contextmanager
def desk_of(opened: Any, title: str) -> "Iterator[Desk]":
    """A desk whose progress is drawn under ``title``."""
    from appliance.jobs.common import Desk
    from appliance.progress import progress

    with progress(title) as report:
        yield Desk(opened[0], opened[1], report)
