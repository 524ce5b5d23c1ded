"""Features once, on disk: a real vault, a real tower, counted calls."""

# ruff: noqa: F811 (fixtures that are imported are arguments, too)

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_hook

from appliance.jobs import features as under_test
from appliance.jobs import learn
from appliance.jobs.common import Desk, images_in
from appliance.jobs.features import KIND, FeatureCache, cache_plan, uses_in_alignment, uses_in_run
from audit.actor import Actor
from audit.checkpoint import VerifierKey
from audit.conversation import Conversation, Turn
from audit.errors import BadInput, Refused
from audit.keys import Cost, KeyPair, generate
from audit.reading import read
from audit.remote import RemoteVault
from audit.rows import NewObject, Record
from audit.vault import Vault
from audit.verify import verify
from tests.train.conftest import loaded, picture, tiny_model  # noqa: F401 fixtures
from tests.train.test_features import same, towers
from train.lora import LoraConfig
from train.models.features import Features, features_key, packed
from train.models.qwen2_vl import Qwen2VL
from train.rl.grpo import GrpoConfig, Prompt
from train.rl.views import MIRRORED, original
from train.sft import SftConfig

ACTOR = Actor.current("steward")
PASSPHRASE = b"correct horse"
SIZES = ((64, 48), (128, 128), (16, 96), (48, 48))


@pytest.fixture(scope="module")
def auditor() -> KeyPair:
    return generate("auditor", "X25519")


@pytest.fixture
def vault(tmp_path: Path, auditor: KeyPair) -> Iterator[Vault]:
    recipients = [auditor.recipient, generate("recovery", "X25519").recipient]
    with Vault.create(tmp_path / "home", PASSPHRASE, recipients, cost=Cost(64, 1, 1), actor=ACTOR) as made:
        yield made


@pytest.fixture(autouse=True)
def batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit two images' features together, so that a run reads from the disk what it has written."""
    monkeypatch.setattr(under_test, "_BATCH_IMAGES", 2)


def pictures(vault: Vault) -> list[str]:
    """Four images of two patients, as records; ids."""
    items = []
    for k, size in enumerate(SIZES):
        png = io.BytesIO()
        picture(k, *size).save(png, "PNG")
        items.append(NewObject("image", png.getvalue(), vault.pseudonym(f"47{k % 2}")))
    images = vault.put_many(items, actor=ACTOR)
    reports = vault.put_many([NewObject("report", b"{}", item.patient) for item in items], actor=ACTOR)
    for image, report, item in zip(images, reports, items, strict=True):
        source = vault.fingerprint(image.encode())
        vault.catalogue.add_record(Record("", str(item.patient), image, report, source, "train"))
    return images


def epochs(
    vault: Vault, model: Any, images: Sequence[str], count: int = 3, gb: float = 1.0, uses: int = 3, **how: Any
) -> Features:
    """A run that reads each image's features in each epoch, with no memory to keep more than one."""
    desk = Desk(vault, ACTOR, tell=how.pop("tell", lambda text: pytest.fail(text)))
    run = vault.catalogue.start_run("train", {}, 0, "")
    cache = FeatureCache(desk, run, features_key(model), dict.fromkeys(images, uses), gb, **how)
    plain = sorted({original(name) for name in images})
    with vault.use(plain, "HRESCH", ACTOR, "train") as opened, cache:
        found = Features(model, images_in(opened), 0, cache)
        fresh, ran = Features(model, images_in(opened)), 0
        for _ in range(count):
            for name in images:
                with towers(model) as calls:
                    seen = found.of(name)
                ran += len(calls)
                assert same(seen, fresh.of(name))
    assert ran == found.computed
    return found


def kept(vault: Vault) -> list[str]:
    return [str(one.note["image"]) for one in vault.catalogue.objects(KIND)]


def test_the_tower_runs_once_an_image_and_never_in_the_next_run(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    names = [*images, images[0] + MIRRORED, images[1] + "#rotated-90"]
    first = epochs(vault, loaded, names)
    assert (first.computed, first.fetched) == (6, 12)
    assert sorted(kept(vault)) == sorted(names)
    for one in vault.catalogue.objects(KIND):
        image = original(str(one.note["image"]))
        assert one.patient == vault.catalogue.object(image).patient and vault.catalogue.parents(one.id) == [image]
    second = epochs(vault, loaded, names)
    assert (second.computed, second.fetched) == (0, 18)
    budget = replace(loaded, family=replace(loaded.family, max_pixels=48 * 48))
    third = epochs(vault, budget, names)
    assert (third.computed, third.fetched) == (6, 12)


def test_nothing_is_written_of_what_is_used_once_or_of_nobody(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    assert epochs(vault, loaded, images, count=1, uses=1).computed == 4 and kept(vault) == []
    with vault.use(images[:1], "HRESCH", ACTOR, "test") as opened:
        nobodys = vault.put("image", opened.read(images[0]), actor=ACTOR)
    assert epochs(vault, loaded, [nobodys]).computed == 1 and kept(vault) == []
    assert epochs(vault, loaded, images, gb=0).computed == 12 and kept(vault) == []


def test_every_reading_is_a_use_in_the_log(vault: Vault, loaded: Any, auditor: KeyPair) -> None:
    images = pictures(vault)
    epochs(vault, loaded, images)
    epochs(vault, loaded, images)
    made = {one.id for one in vault.catalogue.objects(KIND)}
    log = vault.home / "audit/log.sqlite"
    verdict = verify(log, VerifierKey.from_text((vault.home / "keys/log.pub").read_text()))
    events = [one.event for one in read(log, auditor, verdict.size)]
    stored = [e for e in events if e.kind == "object.stored" and made & set(e.objects)]
    used = [e for e in events if e.kind == "object.used" and made & set(e.objects)]
    assert [len(e.objects) for e in stored] == [2, 2] and made == {one for e in stored for one in e.objects}
    assert len(used) == 2  # one a run
    for event in used:
        assert set(event.objects) == made and event.purpose == "HRESCH" and event.activity == "train"
        assert len(event.patients) == 2 and event.detail["run"]


def test_no_byte_of_the_features_lies_in_the_home_in_plain(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    features = epochs(vault, loaded, images)
    needles = []
    for name in images:
        with vault.use([name], "HRESCH", ACTOR, "test") as opened:
            visual = Features(loaded, images_in(opened)).of(name)
        whole = packed(visual, features.grid(name))
        raw = visual.tokens.numpy().tobytes()
        assert raw[:48] in whole
        needles += [raw[at : at + 48] for at in range(0, len(raw), len(raw) // 8)]
    needles = [needle for needle in needles if len(needle) == 48] + [b'"tokens"', b"safetensors"]
    files = [path for path in vault.home.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path


def test_a_forgotten_patients_features_are_gone(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    epochs(vault, loaded, [*images, images[0] + MIRRORED])
    patient = vault.catalogue.object(images[0]).patient
    theirs = [one.id for one in vault.catalogue.objects(KIND, patient)]
    others = [one.id for one in vault.catalogue.objects(KIND) if one.patient != patient]
    assert (len(theirs), len(others)) == (3, 2)
    home = vault.home
    vault.close()
    with Vault.open(home, PASSPHRASE, alone=True) as alone:
        assert set(theirs) <= set(alone.plan_forgetting(patient, ACTOR).own)
        alone.forget(patient, ACTOR)
    with Vault.open(home, PASSPHRASE) as again:
        assert not again.catalogue.objects(KIND, patient)
        for object_id in theirs:
            assert not list(home.glob(f"vault/*/**/{object_id}"))
            with pytest.raises(BadInput, match="deleted"), again.use([object_id], "HRESCH", ACTOR, "test"):
                pass
        with again.use(others, "HRESCH", ACTOR, "test") as opened:
            assert all(opened.read(one) for one in others)
        assert not again.check(ACTOR).findings
        left = [name for name in images if again.catalogue.object(name).patient != patient]
        assert epochs(again, loaded, left).computed == 0


def test_the_disk_budget_holds_and_what_was_used_longest_ago_goes_first(
    vault: Vault, loaded: Any, monkeypatch: Any
) -> None:
    images = pictures(vault)
    other = replace(loaded, digest="0" * 64)
    epochs(vault, other, images[3:])
    epochs(vault, loaded, images[:2])
    epochs(vault, loaded, images[2:3])
    assert epochs(vault, loaded, images[:1]).computed == 0  # used again: now 1, then 2, is the oldest
    sizes = {str(one.note["image"]): one.size for one in vault.catalogue.objects(KIND)}
    held = vault.catalogue.bytes_of(KIND)
    assert held == sum(sizes.values())
    # The key of no model that is used goes first, then the image that was used longest ago; the others stay.
    budget = held - sizes[images[3]] - sizes[images[1]] + sizes[images[3]]
    assert epochs(vault, loaded, images[3:], gb=budget / 1e9).computed == 1
    assert sorted(kept(vault)) == sorted([images[0], images[2], images[3]])
    assert vault.catalogue.bytes_of(KIND) <= budget
    monkeypatch.setattr(under_test, "_BATCH_IMAGES", 1)
    said: list[str] = []
    two = (sizes[images[0]] + sizes[images[1]]) / 1e9
    found = epochs(vault, loaded, images, gb=two, tell=said.append)
    assert len(said) == 1 and "--feature-cache-gb" in said[0] and "3 of 4 images" in said[0]
    assert vault.catalogue.bytes_of(KIND) <= two * 1e9 and found.computed == 3


def test_a_batch_is_committed_by_count_or_by_time(vault: Vault, loaded: Any, monkeypatch: Any) -> None:
    images = pictures(vault)
    now = [0.0]
    desk, run = Desk(vault, ACTOR), vault.catalogue.start_run("train", {}, 0, "")
    with FeatureCache(desk, run, "k", dict.fromkeys(images, 2), clock=lambda: now[0]) as cache:
        monkeypatch.setattr(under_test, "_BATCH_IMAGES", 3)
        cache.put(images[0], b"0")
        assert cache.get(images[0]) == b"0" and kept(vault) == []
        now[0] = 5.0
        cache.put(images[1], b"1")
        assert kept(vault) == images[:2] and cache.get(images[1]) == b"1"
        monkeypatch.setattr(under_test, "_BATCH_IMAGES", 1)
        cache.put(images[2], b"2")
        assert kept(vault) == images[:3]
        cache.put(images[2], b"again")
        assert cache.get(images[2]) == b"2"


def test_a_full_disk_stops_the_cache_and_not_the_work(vault: Vault, loaded: Any) -> None:
    """The limit on a file's size, set on the vault's own process, stands for the full disk."""
    images = pictures(vault)
    said: list[str] = []
    with RemoteVault.open(vault.home, PASSPHRASE) as remote:
        process = remote._channel._process.pid  # type: ignore[union-attr]
        before = resource.prlimit(process, resource.RLIMIT_FSIZE)
        log = (vault.home / "audit/log.sqlite-wal").stat().st_size
        desk, run = Desk(remote, ACTOR, tell=said.append), remote.catalogue.start_run("train", {}, 0, "")
        limit = max(log, 1 << 20) + (1 << 20)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (limit, before[1]))
        with FeatureCache(desk, run, "k", dict.fromkeys(images, 2)) as cache:
            cache.put(images[0], b"x" * (limit + 1))
            cache.flush()
            assert len(said) == 1 and "memory only" in said[0] and "disk refused" in said[0]
            assert cache.get(images[0]) is None and not cache.wants(images[1])
            cache.put(images[1], b"x")
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)
        assert kept(vault) == [] and not list((vault.home / "vault/incoming").iterdir())
        assert remote.fingerprint(b"x") == vault.fingerprint(b"x")


def test_a_nearly_full_disk_is_left_alone(vault: Vault, loaded: Any, monkeypatch: Any) -> None:
    images, said = pictures(vault), list[str]()
    monkeypatch.setattr(under_test, "FREE_BYTES", 1 << 62)
    assert epochs(vault, loaded, images, tell=said.append).computed == 12
    assert len(said) == 1 and kept(vault) == []


KILLED = """
import json, os, signal, sys
from pathlib import Path
from appliance.jobs import features
from appliance.jobs.common import Desk
from audit.actor import Actor
from audit.remote import RemoteVault
home, images = Path(sys.argv[1]), json.loads(sys.argv[2])
features._BATCH_IMAGES = 2
with RemoteVault.open(home, b"correct horse") as vault:
    run = vault.catalogue.start_run("train", {}, 0, "")
    with features.FeatureCache(Desk(vault, Actor.current("steward")), run, "k", dict.fromkeys(images, 2)) as cache:
        for image in images[:2]:
            cache.put(image, b"x" * 3_000_000)
        def half():
            yield b"x" * (2 << 20)
            os.kill(os.getpid(), signal.SIGKILL)
        cache._waiting = {images[2]: b"x"}
        cache._new = lambda image, data: features.NewObject(features.KIND, half(), "P-1", [image], {})
        cache.flush()
"""


def opened_alone(home: Path) -> Vault:
    """The vault, once the killed process's custodian has noticed and ended."""
    for _ in range(600):
        try:
            return Vault.open(home, PASSPHRASE, alone=True)
        except Refused:
            time.sleep(0.1)
    raise AssertionError("the custodian did not end")


def test_a_kill_leaves_whole_objects_or_none(vault: Vault) -> None:
    images = pictures(vault)
    home = vault.home
    vault.close()
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(home), json.dumps(images)], cwd=Path(__file__).parents[2], check=False
    )
    assert child.returncode == -signal.SIGKILL
    with opened_alone(home) as again:
        assert kept(again) == images[:2]
        assert not list((home / "vault/incoming").iterdir())
        assert not again.check(ACTOR).findings
        with FeatureCache(
            Desk(again, ACTOR), again.catalogue.start_run("train", {}, 0, ""), "k", dict.fromkeys(images, 2)
        ) as cache:
            assert [cache.get(i) and len(cache.get(i) or b"") for i in images] == [3_000_000, 3_000_000, None, None]
            assert not cache.wants(images[0]) and cache.wants(images[2])


def test_two_processes_may_write_and_drop_the_same(vault: Vault) -> None:
    images = pictures(vault)
    said: list[str] = []
    with RemoteVault.open(vault.home, PASSPHRASE) as one, RemoteVault.open(vault.home, PASSPHRASE) as two:
        caches = []
        for remote in (one, two):
            run = remote.catalogue.start_run("train", {}, 0, "")
            caches.append(FeatureCache(Desk(remote, ACTOR, tell=said.append), run, "k", dict.fromkeys(images, 2)))
        with caches[0] as first, caches[1] as second:
            for cache in (first, second):
                for image in images[:2]:
                    cache.put(image, image.encode() * 100)
                cache.flush()
            assert len(kept(vault)) == 4  # both wrote: they do not wait for each other
            vault.delete([vault.catalogue.objects(KIND)[0].id], actor=ACTOR, activity="test")
            assert first.get(images[0]) is None and first.wants(images[0])
            assert first.get(images[1]) == second.get(images[1]) == images[1].encode() * 100
            vault.delete([one.id for one in vault.catalogue.objects(KIND)], actor=ACTOR, activity="test")
            assert first.get(images[1]) is None and second.get(images[0]) is None
            first.put(images[2], b"2")
        assert not said and kept(vault) == [images[2]]


def test_a_changed_object_is_told_and_computed_again(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    epochs(vault, loaded, images)
    victim = vault.catalogue.objects(KIND)[0]
    path = vault.home / "vault/objects" / victim.id[:2] / victim.id
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said: list[str] = []
    assert epochs(vault, loaded, images, tell=said.append).computed == 1
    assert len(said) == 1 and "computed again" in said[0]


def test_uses_are_counted_by_row_and_epoch() -> None:
    def talk(*images: str) -> Conversation:
        return Conversation("c", images, (Turn("user", "?"),), "r", "k")

    talks = [talk("a"), talk("a"), talk("b"), talk("b", "a"), talk("c", "c"), talk()]
    assert uses_in_run(talks, SftConfig(epochs=1)) == {"a": 2, "b": 2, "c": 1}
    assert uses_in_run(talks, SftConfig(epochs=3)) == {"a": 6, "b": 6, "c": 3}
    prompts = [Prompt(image, (), "", "") for image in "aab"]
    assert uses_in_alignment(prompts, GrpoConfig(steps=1, prompts=3)) == {"a": 2, "b": 1}
    found = uses_in_alignment(prompts, GrpoConfig(steps=4, prompts=3), (MIRRORED,))
    assert found == {"a": 8, "b": 4, "a" + MIRRORED: 8, "b" + MIRRORED: 4}
    turns = ("#rotated-90", "#rotated-180", "#rotated-270")
    found = uses_in_alignment(prompts, GrpoConfig(steps=4, prompts=3), turns)  # one of three is drawn each step
    assert found == {"a": 8, "b": 4} | {"a" + t: 3 for t in turns} | {"b" + t: 2 for t in turns}


def test_a_run_uses_an_image_in_both_stages_and_in_every_measurement() -> None:
    def talk(image: str, kind: str, record: str) -> Conversation:
        return Conversation(f"{image} {kind}", (image,), (Turn("user", "?"),), record, kind)

    talks = [talk(i, kind, f"r{i}") for i in "abcdefgh" for kind in ("caption", "precise")]
    talks += [talk("a", "precise", "ra"), Conversation("text", (), (Turn("user", "?"),), "", "caption")]
    once = SftConfig(epochs=1, rows_per_step=4)
    assert uses_in_run(talks, once) == dict.fromkeys("abcdefgh", 1)
    assert uses_in_run(talks, replace(once, stages="two")) == dict.fromkeys("abcdefgh", 2)
    patients = {f"r{i}": "ab"[i > "d"] for i in "abcdefgh"}
    held = replace(once, held_out=0.3, evaluate_every=1, probe_every=2, epochs=3)
    found = uses_in_run(talks[:-1], held, patients)  # three steps over four rows
    assert found in ({i: 5 if i in measured else 3 for i in "abcdefgh"} for measured in ("abcd", "efgh"))
    with pytest.raises(BadInput, match="no tasks"):
        uses_in_run(talks[:1], replace(once, stages="two"))


def test_training_asks_the_tower_once_an_image_and_learns_the_same(
    vault: Vault,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    images = pictures(vault)
    records = {one.image: one.id for one in vault.catalogue.records()}
    turns = (Turn("user", "Is the lesion visible?"), Turn("assistant", "Yes", True))
    talks = [Conversation(f"c{k}", (i,), turns, records[i], "precise") for k, i in enumerate(images)]
    data = "\n".join(talk.to_json() for talk in talks).encode()
    made = vault.put("conversations", data, actor=ACTOR, parents=images)
    synth = vault.catalogue.start_run("synth", {}, 0, "")
    vault.catalogue.finish_run(synth.id, {"conversations": made})
    home = vault.home
    vault.close()
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setattr(learn, "Features", lambda *rest, **how: Features(*rest, **how, budget_mb=0))
    calls: list[int] = []

    def count(module: Any, *_: Any) -> None:
        calls.extend([1] * (type(module).__name__ == "Qwen2VisionTransformerPretrainedModel"))

    hook = register_module_forward_hook(count)
    config, losses = SftConfig(epochs=3, rows_per_step=2, lora=LoraConfig(4, 8)), []
    try:
        for place, gb, wanted in ((home, 1.0, 4), (tmp_path / "copy", 0, 12)):
            with Vault.open(place, PASSPHRASE) as opened:
                run = learn.train(Desk(opened, ACTOR), tiny_model, config, feature_cache_gb=gb)
                assert (len(calls), len(kept(opened))) == (wanted, 4 if gb else 0)
                calls.clear()
                metrics = str(run.result["metrics"])
                with opened.use([metrics], "HRESCH", ACTOR, "test") as use:
                    losses.append([json.loads(line)["loss"] for line in use.read(metrics).splitlines()])
        with Vault.open(home, PASSPHRASE) as opened:
            learn.train(Desk(opened, ACTOR), tiny_model, replace(config, epochs=4), 0)
            assert not calls
    finally:
        hook.remove()
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_the_plan_states_the_size_that_comes_out(vault: Vault, loaded: Any) -> None:
    images = pictures(vault)
    features = epochs(vault, loaded, images)
    grids = {name: features.grid(name) for name in images}
    width = loaded.model.config.get_text_config().hidden_size
    plan = cache_plan(loaded.family, width, grids, dict.fromkeys(images, 3), 1.0)
    stored, each = vault.catalogue.bytes_of(KIND), plan.bytes_an_image
    assert plan.images == 4 and plan.budget == 10**9 and plan.total <= stored <= plan.total + 4 * 600
    assert "within the budget of 1.00 GB" in plan.sentence and "4 images" in plan.sentence
    assert "2 of them fit" in cache_plan(loaded.family, width, grids, dict.fromkeys(images, 2), each * 2 / 1e9).sentence
    assert "once" in cache_plan(loaded.family, width, grids, dict.fromkeys(images, 1)).sentence
    assert "memory only" in cache_plan(loaded.family, width, grids, dict.fromkeys(images, 2), 0).sentence
    # DESIGN's figure: about 0.8 MB an image for Qwen2-VL-2B, 256 visual tokens of 1,536 numbers in 16 bits.
    two_billion = Qwen2VL(151655)
    assert cache_plan(two_billion, 1536, {"a": (16, 16)}, {"a": 4}, itemsize=2).bytes_an_image == 786_432
