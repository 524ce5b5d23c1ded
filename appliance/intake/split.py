"""Which part a patient plays: training or held out, the same at every ingest."""

from collections.abc import Callable

from audit.vault import Vault


def by_patient(vault: Vault, held_out: float) -> Callable[[str], str]:
    """A rule that holds out a share of the patients, drawn by a keyed digest of their numbers."""

    def part(number: str) -> str:
        draw = int(vault.fingerprint(f"split {number}".encode())[:8], 16) / 2**32
        return "held-out" if draw < held_out else "train"

    return part
