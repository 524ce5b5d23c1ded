"""`cloche train` and `cloche runs` as a steward types them: plan, train, show, compare, plot, run again."""

import io
import json
import shutil
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from appliance import curves
from appliance.cli.options import fields_of
from appliance.jobs.history import panels_of
from appliance.starter.where import STARTER
from audit import rows
from audit.catalogue import Catalogue
from audit.home import CATALOGUE
from tests.appliance.lessons import RECORDS, appliance
from tests.appliance.test_cli import typed, understand

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", "1", "--rank", "2", "--rehearse", "0")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cloche(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command on an appliance that has synthetic tasks."""
    home = appliance(tmp_path)

    def command(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
        return run("--home", str(home), *map(str, words))

    return command


def listed(cloche: Run, kind: str) -> list[dict[str, str]]:
    return [r for r in json.loads(cloche("runs", "list", "--json")[1]) if r["kind"] == kind]


def test_a_last_step_that_was_skipped_has_no_loss_to_print(cloche: Run) -> None:
    code, out, err = cloche("train", *QUICK, "--learning-rate", "1e30")
    assert code == 0 and "step 1 is skipped" in err, err
    assert "2 steps, the last of them skipped, model model-" in out and "loss" not in out


def test_the_plan_states_the_cache_and_what_a_tower_that_learns_costs(cloche: Run) -> None:
    more = (*QUICK, "--epochs", "2", "--dry-run")
    plain = json.loads(cloche("train", *more, "--json")[1])
    cache = plain["cache"]
    assert cache["images"] == RECORDS and cache["total"] == RECORDS * cache["bytes_an_image"] > 0
    out = cloche("train", *more)[1]
    assert f"features on disk        {RECORDS} images of" in out and "within the budget of" in out
    assert f"{RECORDS - 3} of them fit" in cloche("train", *more, "--feature-cache-gb", str(cache["total"] / 2e9))[1]
    assert "none, they are kept in memory only" in cloche("train", *more, "--feature-cache-gb", "0")[1]
    seeing = json.loads(cloche("train", *more, "--train-vision", "--json")[1])
    assert seeing["cache"] is None and seeing["memory"]["features"] == 0
    assert seeing["memory"]["adapter"] > plain["memory"]["adapter"]
    assert seeing["memory"]["activations"] > plain["memory"]["activations"]
    assert "none: the tower learns, too" in cloche("train", *more, "--train-vision")[1]


def test_from_plan_to_curves(cloche: Run, tmp_path: Path) -> None:
    code, out, err = cloche("train", *QUICK, "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["images"], plan["conversations"], plan["rows"], plan["steps"]) == (RECORDS, 2 * RECORDS, RECORDS, 2)
    assert plan["tokens"]["p50"] <= plan["tokens"]["longest"] and plan["tokens"]["all"] > plan["visual_tokens"] > 0
    assert plan["memory"]["peak"] > plan["memory"]["weights"] > 0 and plan["seconds"] > 0
    assert plan["cache"]["images"] == plan["cache"]["total"] == 0, "each image is used once"
    assert not listed(cloche, "train"), "a dry run leaves no run"

    code, out, err = cloche("train", *QUICK, "--json")
    assert code == 0 and "plan: 2 steps over 6 rows" in err, err
    first = json.loads(out)["run"]
    code, out, _ = cloche("runs", "show", first, "--json")
    shown = json.loads(out)
    assert shown["summary"]["steps"] == 2 and shown["model"].startswith("model-") and shown["manifest"]
    assert shown["config"]["epochs"] == 1 and shown["summary"]["peak_mb"] > 0

    saved = tmp_path / "run.toml"
    saved.write_text(cloche("runs", "show", first, "--config")[1])
    assert tomllib.loads(saved.read_text())["rank"] == 2
    assert json.loads(cloche("train", "--config", saved, "--json")[1])["run"] == first, (
        "the same settings, the same run"
    )
    code, out, err = cloche("train", "--config", saved, "--seed", "5", "--json")
    assert code == 0, err
    second = json.loads(out)["run"]
    assert second != first

    differ = json.loads(cloche("runs", "compare", first, second, "--json")[1])
    assert differ["differences"] == {"seed": [0, 5]}
    assert len(differ["summaries"]) == 2
    assert second in cloche("runs", "compare", first, second)[1]

    for name in ("curves.svg", "curves.png"):
        code, _, err = cloche("runs", "plot", first, second, "-o", tmp_path / name)
        assert code == 0, err
    lines = ET.parse(tmp_path / "curves.svg").getroot().iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 ours
    assert {first, second} <= {line.text for line in lines}
    assert Image.open(tmp_path / "curves.png").size == (2 * curves.WIDTH, 2 * curves.HEIGHT)
    code, out, _ = cloche("runs", "plot", first)
    assert code == 0 and first in out and set(out) & set(curves.BLOCKS)
    code, _, err = cloche("runs", "plot", first, "--metric", "beauty")
    assert code == 3 and "loss" in err
    uses = json.loads(cloche("runs", "show", first, "--json")[1])
    assert uses["id"] == first
    code, out, _ = cloche("models", "show", shown["model"], "--json")
    assert code == 0 and json.loads(out)["run"] == first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lerning_rate = 0.1\n", "learning_rate"),
        ("epochs = [1]\n", "one plain value"),
        ("epochs =\n", "no TOML"),
        (f'base = "{"0" * 64}"\n', "another model"),
    ],
)
def test_a_saved_config_that_does_not_do(cloche: Run, tmp_path: Path, content: str, said: str) -> None:
    saved = tmp_path / "run.toml"
    saved.write_text(content)
    code, _, err = cloche("train", "--config", saved, *QUICK)
    assert code == 3 and said in err and "Next:" in err


def test_settings_out_of_bounds(cloche: Run) -> None:
    code, _, err = cloche("train", "--early-stop", "2")
    assert code == 3 and "--held-out" in err
    assert cloche("train", "--epochs", "many")[0] == 2
    assert cloche("runs", "plot", "run-1", "-o", "curves.gif")[0] == 2


def test_resume(cloche: Run, tmp_path: Path) -> None:
    code, _, err = cloche("train", "--resume")
    assert code == 3 and "no training run was interrupted" in err
    code, out, err = cloche("train", *QUICK, "--json")
    assert code == 0, err
    done = json.loads(out)["run"]
    catalogue = Catalogue(tmp_path / "home" / CATALOGUE)
    catalogue.set_state(done, "running")
    catalogue.close()
    code, _, err = cloche("train", "--resume", "--rank", "4")
    assert code == 3 and "rank = 2, not 4" in err
    code, out, err = cloche("train", "--resume", "--json")
    assert code == 0 and json.loads(out)["run"] == done, err


def test_a_large_model_without_a_gpu_needs_a_word(cloche: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.jobs import plan

    monkeypatch.setattr(plan, "LARGE", 1000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = cloche("train", *QUICK)
    assert code == 3 and "no GPU" in err and "--yes" in err
    assert not listed(cloche, "train")
    assert cloche("train", *QUICK, "--dry-run")[0] == 0
    assert cloche("train", *QUICK, "--yes")[0] == 0


def test_an_adapter_of_another_base(cloche: Run, tmp_path: Path) -> None:
    """GRPO goes on from an adapter: on a directory with one file changed it is refused."""
    assert cloche("train", *QUICK)[0] == 0
    other = Path(shutil.copytree(STARTER, tmp_path / "other"))
    (other / "note.txt").write_text("changed")
    code, _, err = cloche("align", "--model", other, "--steps", "1", "--group", "2")
    assert code == 3 and "another base model" in err, err


def test_a_vocabulary_that_does_not_fit(cloche: Run, tmp_path: Path) -> None:
    other = Path(shutil.copytree(STARTER, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["vocab_size"] += 8
    (other / "config.json").write_text(json.dumps(config))
    code, _, err = cloche("train", "--model", other, *QUICK)
    assert code == 3 and "do not fit config.json" in err
    (other / "config.json").write_text("{")
    code, _, err = cloche("train", "--model", other, *QUICK, "--dry-run")
    assert code == 3 and "config.json is broken" in err


def test_options_are_the_fields() -> None:
    """Reading the class as text gives what importing it gives."""
    import dataclasses

    from train.sft_config import SftConfig

    real = {f.name: f.default for f in dataclasses.fields(SftConfig) if f.name != "lora"}
    read = fields_of("train.sft_config", "SftConfig")
    assert {one.name: one.default for one in read} == real
    assert all(one.says for one in read)
    assert next(one for one in read if one.name == "stages").choices == ("single", "two")


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.1, 3.4, [0, 1, 2, 3, 4]), (2, 2, [1, 1.5, 2, 2.5, 3]), (0, 0, None), (-3e-5, 0, None)],
)
def test_ticks_are_round_and_hold_all(low: float, high: float, marks: list[float] | None) -> None:
    found = curves.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) >= 2
    assert marks is None or found == marks


def test_a_sparkline_means_neighbours() -> None:
    assert curves.sparkline([0, 0, 1, 1], 2) == "▁█"
    assert curves.sparkline([5.0]) == "▁" and curves.sparkline([]) == ""


def test_a_curve_of_one_point_and_of_none() -> None:
    drawn = curves.svg("t", [curves.Panel("t", (curves.Curve("<a>", ((1, 2.0),)),), "x")])
    assert "<polyline" in drawn and "&lt;a&gt;" in drawn
    assert "nothing to draw" in curves.svg("t", [curves.Panel("t", (), "x")])


def test_the_plot_of_an_alignment(cloche: Run, tmp_path: Path) -> None:
    assert cloche("train", *QUICK)[0] == 0
    code, out, err = cloche("align", "--steps", "2", "--group", "2", "--json")
    assert code == 0, err
    run = json.loads(out)["run"]
    code, out, err = cloche("runs", "plot", run, "-o", tmp_path / "align.svg", "--json")
    assert code == 0, err
    drawn = json.loads(out)["panels"]
    assert {"Reward", "Length of completions", "Completions cut off"} <= set(drawn)
    assert [step for step, _ in drawn["Reward"]["reward"]] == [1, 2]
    assert all(title in (tmp_path / "align.svg").read_text() for title in drawn)
    assert "length " in cloche("runs", "plot", run)[1]
    assert json.loads(cloche("runs", "plot", run, "--metric", "length", "--json")[1])["metric"] == "length"


def alignment(name: str) -> rows.Run:
    return rows.Run(name, "align", "done", {}, 0, "", "", "", {})


def test_an_alignment_is_drawn_whole() -> None:
    measured = {"reward": 0.5, "zero_std_share": 0.9, "entropy": 1.0, "length": 4.0, "clipped": 0.0}
    lesson = {"progress": 0.1, "prefix_share": 0.7, "threshold": 0.3, "difficulty_target": 0.4}
    table: list[dict[str, float]] = [{"step": n, **measured, **lesson, "kl": 0.01 * n} for n in range(3)]
    table += [{"step": 3, "reward": 0.6, "entropy": float("nan")}]
    panels = panels_of([alignment("run-1")], [table])
    assert [len(p.curves) for p in panels] == [1, 1, 1, 1, 1, 1, 4], "what was not measured is left out"
    assert panels[0].curves[0].points[-1] == (4.0, 0.6) and len(panels[2].curves[0].points) == 3
    page = ET.fromstring(curves.svg("two < one", panels))  # noqa: S314 ours
    assert (page.get("width"), page.get("height")) == (str(2 * curves.WIDTH), str(4 * curves.HEIGHT))
    words = {line.text for line in page.iter("{http://www.w3.org/2000/svg}text")}
    assert {p.title for p in panels} | {"prefix share", "threshold", "kl"} <= words
    assert Image.open(io.BytesIO(curves.png(panels, 1))).size == (2 * curves.WIDTH, 4 * curves.HEIGHT)
    both = panels_of([alignment("run-1"), alignment("run-2")], [table, table[:1]])
    assert [c.name for c in both[0].curves] == ["reward run-1", "reward run-2"]
    assert panels_of([alignment("run-1")], [[]]) == []


def test_command_lines_in_the_training_guide_can_be_typed() -> None:
    lines = typed((ROOT / "docs" / "training.md").read_text())
    assert len(lines) > 12
    for words in lines:
        understand(words)
