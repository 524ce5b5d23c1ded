"""Where the embedded starter model lies."""

from pathlib import Path

STARTER = Path(__file__).parent / "model"
"""A transformers directory; see its MODEL_CARD.md."""
