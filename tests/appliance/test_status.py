"""What is told of an appliance without its keys, and how its vault is opened with them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.settings import PASSPHRASE_FILE, Settings, open_vault
from audit.actor import Actor
from audit.errors import Refused
from audit.keys import Cost, generate
from audit.vault import Vault

Run = Callable[..., tuple[int, str, str]]
PASSPHRASE = b"correct horse"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An appliance with two objects, and the file of its passphrase in the environment."""
    people = [generate(name, "X25519").recipient for name in ("auditor", "recovery")]
    cheap = Cost(memory_kib=64, iterations=1, lanes=1)
    with Vault.create(tmp_path / "home", PASSPHRASE, people, cost=cheap) as vault:
        for text in (b"a caption", b"another"):
            vault.put("record", text, actor=Actor.current("steward"))
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE, str(secret))
    return tmp_path / "home"


def test_status_counts_without_a_passphrase(home: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.delenv(PASSPHRASE_FILE)
    code, out, err = run("--home", str(home), "status", "--json")
    told = json.loads(out)
    assert (code, err, told["objects"]) == (0, "", 2)
    # The opening of the segment, the making of the appliance and the two objects at least.
    assert told["log_entries"] >= 4 and told["home"] == str(home)
    code, out, _ = run("--home", str(home), "status")
    assert code == 0 and "2 encrypted objects" in out and f"{told['log_entries']:,} entries" in out


def test_doctor_finds_the_appliance_well(home: Path, run: Run) -> None:
    _, out, _ = run("--home", str(home), "doctor", "--json")
    states = {finding["name"]: finding["state"] for finding in json.loads(out)["findings"]}
    assert states["appliance"] == "ok"


def test_a_log_whose_checkpoint_the_pinned_key_did_not_sign_is_an_integrity_failure(home: Path, run: Run) -> None:
    from audit.checkpoint import Signer, VerifierKey

    pin = home / "keys" / "log.pub"
    origin = VerifierKey.from_text(pin.read_text()).name
    pin.chmod(0o600)
    pin.write_text(Signer.generate(origin).key.to_text())
    assert run("--home", str(home), "status")[0] == 4


def test_a_newer_appliance_is_left_alone(home: Path, run: Run) -> None:
    about = home / "cloche.json"
    about.chmod(0o600)
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 99}))
    code, _, err = run("--home", str(home), "status")
    assert code == 3 and "newer" in err
    with pytest.raises(Refused, match="newer"), open_vault(Settings(home=home), "steward"):
        pass


def test_open_vault_gives_vault_and_actor(home: Path) -> None:
    with open_vault(Settings(home=home), "clinician") as (vault, actor):
        assert actor == Actor.current("clinician")
        assert vault.put("record", b"third", actor=actor)


def test_a_wrong_passphrase_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_bytes(b"wrong horse")
    with pytest.raises(Refused), open_vault(Settings(home=home), "steward"):
        pass
