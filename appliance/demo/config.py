"""What the demo runs with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DemoConfig:
    """What to run with."""

    folder: Path
    """Where everything goes: hospital, home, keys, page."""
    model: Path
    """The model to adapt."""
    synthesizer: Path
    """The model that writes triplets."""
    judge: Path
    """The model, or GGUF file, that judges them."""
    fast: bool = False
    """Small numbers, for tests of the whole way: its figures mean nothing."""
    recipients: tuple[Path, ...] = ()
    """Public key files of who may read the log; where none is named, two demo keys are made beside the home."""

    @property
    def home(self) -> Path:
        """The appliance's home."""
        return self.folder / "home"

    @property
    def page(self) -> Path:
        """The page, beside the home."""
        return self.folder / "page.html"
