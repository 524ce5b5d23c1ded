"""`cloche align` as a steward types it: plan, align, look at it, run it again, go on after a kill, bad input."""

import json
import tomllib
import xml.etree.ElementTree as ET  # noqa: N817 the usual name
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.jobs.align import AlignSettings, align
from appliance.jobs.common import Desk, objects_of_run
from appliance.jobs.completions import completions_of
from audit import rows
from audit.actor import Actor
from audit.catalogue import Catalogue
from audit.home import CATALOGUE
from audit.vault import Vault
from tests.appliance.lessons import SECRET, appliance
from train.rl.config import GrpoConfig
from train.rl.curriculum import CurriculumConfig

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", "2", "--prompts", "2", "--group", "2", "--checkpoint-every", "1")
ADA = Actor("ada", "steward")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An appliance with a trained adapter; tests add alignments to it."""
    from appliance.jobs.learn import train
    from appliance.starter.where import STARTER
    from train.lora import LoraConfig
    from train.sft import SftConfig

    folder = tmp_path_factory.mktemp("align")
    home = appliance(folder)
    with Vault.open(home, SECRET) as vault:
        train(Desk(vault, ADA), STARTER, SftConfig(epochs=1, held_out=0.3, lora=LoraConfig(2, 4)))
    return home


@pytest.fixture
def cloche(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(home.parent / "passphrase"))
        return run("--home", str(home), *map(str, words))

    return command


def test_from_plan_to_answers(cloche: Run, home: Path, tmp_path: Path) -> None:
    more = (*QUICK, "--domain", "brain-mri", "--reward", "exact", "--reward", "brevity", "--measure-every", "1")
    code, out, err = cloche("align", *more, "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["steps"], plan["completions"], plan["held_out"] > 0) == (2, 8, True)
    assert plan["prompts"] + plan["held_out"] == 6 and plan["domain"] == {"mirror": 1.0}
    assert plan["peak"] >= plan["memory"]["peak"] > 0 and plan["seconds"] > 0
    assert "would take 2 steps" in cloche("align", *more, "--dry-run")[1]
    assert not any(r["kind"] == "align" for r in json.loads(cloche("runs", "list", "--json")[1]))

    code, out, err = cloche("align", *more, "--json")
    assert code == 0 and "plan: 2 steps" in err, err
    assert "reward" in err and "held out" in err, "the live table"
    done = json.loads(out)
    assert {"held_exact", "brevity/mean", "exact/mean", "domain_js"} & set(done["last"]) >= {"held_exact", "exact/mean"}

    code, out, err = cloche("runs", "answers", done["run"], "--all", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert {r["step"] for r in rows} == {0, 1} and all(len(r["said"]) == 2 for r in rows)
    assert sum(r["kept"] for r in rows if r["step"] == 0) == 2
    assert "wanted  Yes." in cloche("runs", "answers", done["run"], "--step", "1")[1]
    assert cloche("runs", "answers", done["run"], "--step", "9")[0] == 3

    saved = tmp_path / "run.toml"
    saved.write_text(cloche("runs", "show", done["run"], "--config")[1])
    assert tomllib.loads(saved.read_text())["rewards"] == ["exact", "brevity"]
    assert json.loads(cloche("align", "--config", saved, "--json")[1])["run"] == done["run"], "the same settings"
    code, _, err = cloche("runs", "plot", done["run"], "-o", tmp_path / "curves.svg")
    assert code == 0, err
    page = ET.parse(tmp_path / "curves.svg")  # noqa: S314 ours
    assert "Reward" in {t.text for t in page.iter("{http://www.w3.org/2000/svg}text")}


def test_rcpa_shows_the_reason_and_never_the_answer(cloche: Run) -> None:
    code, out, err = cloche("align", *QUICK, "--rcpa", "--curriculum-steps", "4", "--offset", "0", "--json")
    assert code == 0, err
    done = json.loads(out)
    rows = json.loads(cloche("runs", "answers", done["run"], "--all", "--json")[1])
    assert all(r["asked"] == "Is there a lesion?" for r in rows), "the reasoned form has no hint"
    assert any(r["given"] for r in rows) and not any("yes" in r["given"].lower() for r in rows)
    assert {"prefix_share", "threshold", "progress"} <= set(done["last"])


def test_a_cut_off_run_goes_on_to_the_same_adapter(home: Path) -> None:
    """Killed after the first step's checkpoint and, again, while completions are kept without a checkpoint."""
    from appliance.starter.where import STARTER

    config = GrpoConfig(steps=3, prompts=2, group=2, checkpoint_every=1, seed=3)
    asked = AlignSettings(rewards=("exact", "token_f1"), curriculum=CurriculumConfig(), form="reasoned")
    with Vault.open(home, SECRET) as vault:
        whole = align(Desk(vault, ADA), STARTER, config, asked)
        wanted = [c["said"] for c in answers_of(vault, whole)]
        vault.catalogue.set_state(whole.id, "failed")

        class Killed(Exception):
            pass

        for at in (1, 2):
            seen: list[str] = []

            def report(done: int, total: int, what: str, at: int = at, seen: list[str] = seen) -> None:
                seen.append(what)
                if done == at and what.startswith("steps, reward"):
                    raise Killed

            with pytest.raises(Killed):
                align(Desk(vault, ADA, report), STARTER, config, asked)
        again = align(Desk(vault, ADA), STARTER, config, asked)
        assert again.id != whole.id
        assert [c["said"] for c in answers_of(vault, again)] == wanted, "each completion once, in order"
        assert adapter_of(vault, again) == adapter_of(vault, whole)
        assert not objects_of_run(Desk(vault, ADA), again, "checkpoint")


def answers_of(vault: Vault, run: rows.Run) -> list[dict[str, Any]]:
    return list(completions_of(Desk(vault, ADA), run))


def adapter_of(vault: Vault, run: rows.Run) -> dict[str, bytes]:
    """Its weights; the header tells the run and the log, which differ."""
    from safetensors.numpy import load

    name = str(run.result["adapter"])
    with vault.use([name], "HRESCH", ADA, "test") as opened:
        return {k: v.tobytes() for k, v in load(opened.read(name)).items()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--domain", "brian-mri"), "the nearest is 'brain-mri'"),
        (("--reward", "exat"), "the nearest is 'exact'"),
        (("--reward", "exact", "--reward", "exact"), "named twice"),
        (("--reward-weight", "1", "--reward-weight", "2"), "2 weights"),
        (("--reward", "rules:missing.toml"), "missing.toml"),
        (("--group", "1"), "--group must be 2 or more"),
        (("--epsilon-high", "-1"), "--epsilon-high must be 0 or more"),
        (("--rcpa", "--delta-max", "0.1"), "--delta-max must not be below"),
        (("--resume",), "no alignment run was interrupted"),
        (("--gamma", "0.1"), "--gamma is a setting of the curriculum, which is off"),
        (("--collapse-after", "-1"), "--collapse-after must be 0 or more"),
        (("--reward", "format:The rules: {answer}", "--domain", "missing.toml"), "missing.toml"),
        (("--base", "0" * 64), "another model"),
    ],
)
def test_bad_input(cloche: Run, words: tuple[str, ...], said: str) -> None:
    code, out, err = cloche("align", *QUICK[:2], *words)
    assert code == 3 and said in err and "Next:" in err and not out


def test_a_run_that_collapses_says_why(cloche: Run) -> None:
    """All completions of an untaught reward earn the same: the watch stops after two such steps."""
    code, out, err = cloche(
        "align", "--steps", "9", "--prompts", "2", "--group", "2", "--resample", "0", "--reward", "number",
        "--collapse-after", "2", "--json",
    )  # fmt: skip
    assert code == 0, err
    done = json.loads(out)
    assert done["steps"] == 2 and done["stopped"]["kind"] == "no-signal"
    assert "stopped after step 2 of 9" in err and "--group" in done["stopped"]["words"]


def test_resume_takes_the_interrupted_settings(cloche: Run, home: Path) -> None:
    code, out, err = cloche("align", *QUICK, "--reward", "token_f1", "--seed", "7", "--json")
    assert code == 0, err
    done = json.loads(out)["run"]
    catalogue = Catalogue(home / CATALOGUE)
    catalogue.set_state(done, "running")
    catalogue.close()
    code, _, err = cloche("align", "--resume", "--reward", "exact")
    assert code == 3 and "rewards = ('token_f1',)" in err
    code, _, err = cloche("align", "--resume", "--precision", "fp32")
    assert code == 3 and "precision = nf4, not fp32" in err
    code, _, err = cloche("align", "--resume", "--epsilon-high", "0.3")
    assert code == 3 and "epsilon_high = None" in err
    code, out, err = cloche("align", "--resume", "--json")
    assert code == 0 and json.loads(out)["run"] == done, err


FORCED = """
title = "A control"
asks = ["side"]

[[transform]]
kind = "mirror"
force = true
"""


def test_a_forced_table_needs_a_word_and_is_never_exported(cloche: Run, tmp_path: Path) -> None:
    table = tmp_path / "control.toml"
    table.write_text(FORCED)
    code, _, err = cloche("align", *QUICK, "--domain", table)
    assert code == 3 and "the model is a control" in err
    code, _, err = cloche("align", *QUICK, "--domain", table, "--yes")
    assert code == 0, err
    code, _, err = cloche("export")
    assert code == 3 and "for an experiment only" in err


def test_rules_that_changed_are_another_run(cloche: Run, home: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[contradiction]]\nname = "c"\none = ["yes"]\nother = ["no"]\n')
    code, out, err = cloche("align", *QUICK, "--reward", f"rules: {rules}", "--json")
    assert code == 0, err
    done = json.loads(out)["run"]
    catalogue = Catalogue(home / CATALOGUE)
    catalogue.set_state(done, "running")
    rules.write_text(rules.read_text() + 'because = "it is so"\n')
    code, _, err = cloche("align", "--resume")
    catalogue.set_state(done, "done")
    catalogue.close()
    assert code == 3 and f"{done} cannot go on: it was begun with another rules" in err


def test_a_cut_between_keeping_and_finishing_leaves_one_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.jobs import learn
    from appliance.starter.where import STARTER

    config = GrpoConfig(steps=1, prompts=2, group=2, seed=11)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with Vault.open(home, SECRET) as vault:
        finish = learn.finish
        monkeypatch.setattr(learn, "finish", cut)
        with pytest.raises(KeyboardInterrupt):
            align(Desk(vault, ADA), STARTER, config)
        monkeypatch.setattr(learn, "finish", finish)
        models = len(list(vault.catalogue.models()))
        run = align(Desk(vault, ADA), STARTER, config)
        assert len(list(vault.catalogue.models())) == models
        assert len(objects_of_run(Desk(vault, ADA), run, "adapter")) == 1
        assert vault.catalogue.model(run.result["model"]).objects == (run.result["adapter"],)
