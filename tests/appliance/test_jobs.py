"""What the stages share: each finds what the stage before has left, or names the command that makes it."""

import pytest

from appliance.cli.main import COMMANDS
from appliance.jobs.common import MISSING, Desk, latest, latest_adapter
from audit.errors import BadInput
from audit.vault import Vault
from tests.appliance.conftest import STEWARD

SAID = {
    "synth": ("no synthetic tasks", "cloche synth"),
    "train": ("no trained adapter", "cloche train"),
    "export": ("no finished export run", "cloche export"),
}


@pytest.mark.parametrize("kind", ["synth", "train", "export"])
def test_the_newest_finished_run_or_the_command_that_makes_one(vault: Vault, kind: str) -> None:
    desk = Desk(vault, STEWARD)
    vault.catalogue.start_run(kind, {}, 0, "")
    with pytest.raises(BadInput, match=SAID[kind][0]) as refused:
        latest(desk, kind)  # type: ignore[arg-type]
    assert (refused.value.hint, refused.value.where) == (SAID[kind][1], str(vault.home))
    done = [vault.catalogue.finish_run(vault.catalogue.start_run(kind, {}, k, "").id, {"k": k}) for k in range(2)]
    assert latest(desk, kind) == done[-1]  # type: ignore[arg-type]


def test_the_newest_adapter_or_the_command_that_makes_one(vault: Vault) -> None:
    desk = Desk(vault, STEWARD)
    with pytest.raises(BadInput, match="no adapter to export") as refused:
        latest_adapter(desk)
    assert refused.value.hint == "cloche train"
    weights = vault.put("adapter", b"weights", actor=STEWARD)
    made = [vault.catalogue.add_model("adapter", [weights]) for _ in range(2)]
    assert latest_adapter(desk).id == made[-1].id


def test_every_command_that_is_named_is_there() -> None:
    assert {command.removeprefix("cloche ") for _, command in MISSING.values()} <= set(COMMANDS)
