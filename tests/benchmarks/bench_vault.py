"""The vault's figures: reading and storing through its own process against a raw file and plain AES-GCM, and the trail.

python tests/benchmarks/bench_vault.py                    200 MB and 5,000 small objects, 1 GB of disk
python tests/benchmarks/bench_vault.py --steps            what telling the steps of a training run costs
python tests/benchmarks/bench_vault.py --trail            the same over a real training run of the starter, minutes

Everything is read from the page cache: the disk is left out on purpose, it would only hide what encryption costs.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.actor import Actor
from audit.events import Event
from audit.keys import generate
from audit.remote import RemoteVault
from audit.rows import NewObject, Record
from audit.stream import CHUNK_BYTES
from audit.vault import Vault

LARGE, SMALL, COUNT, ROUNDS = 200_000_000, 20_000, 5_000, 5
"""Bytes of the large object, bytes of a small one, how many of those, and rounds in which the ways take turns."""
PASSPHRASE = b"correct horse battery staple"
ME = Actor.current("steward")
ids: list[str] = []
"""The objects at hand."""


def seconds(work: Callable[[], object]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(found: list[float]) -> float:
    """The middle one."""
    return sorted(found)[len(found) // 2]


def gcm(sealed: list[bytes], cipher: AESGCM) -> None:
    """Plain AES-GCM of the same bytes, in this process: what no vault could be faster than."""
    for number, chunk in enumerate(sealed):
        cipher.decrypt(number.to_bytes(12, "big"), chunk, None)


def seal(data: bytes, cipher: AESGCM) -> list[bytes]:
    """Data in chunks of the vault's size, each encrypted."""
    starts = range(0, len(data), CHUNK_BYTES)
    return [cipher.encrypt(k.to_bytes(12, "big"), data[at : at + CHUNK_BYTES], None) for k, at in enumerate(starts)]


@contextmanager
def two_vaults(folder: Path) -> Iterator[tuple[Vault, RemoteVault]]:
    """The same appliance twice: keys in this process, and keys in a process of their own."""
    recipients = [generate(name).recipient for name in ("auditor", "recovery")]
    with (
        Vault.create(folder / "home", PASSPHRASE, recipients) as engine,
        RemoteVault.open(folder / "home", PASSPHRASE) as remote,
    ):
        yield engine, remote


def reading(vaults: tuple[Vault, RemoteVault], folder: Path, size: int, count: int) -> None:
    """Print the rows of reading `count` objects of `size` bytes: raw, AES-GCM, engine, own process."""
    blob = os.urandom(size)
    data = [blob] * count if count == 1 else [os.urandom(size) for _ in range(count)]
    engine, remote = vaults
    stored = seconds(lambda: ids.extend(remote.put_many((NewObject("image", one) for one in data), actor=ME)))
    total = size * count / 1e6
    raw = folder / f"raw-{size}"
    raw.mkdir()
    for number, one in enumerate(data):
        (raw / str(number)).write_bytes(one)
    cipher = AESGCM(os.urandom(32))
    sealed = [seal(one, cipher) for one in data]

    def through(vault: Vault) -> None:
        with vault.use(ids, "HRESCH", ME, "bench") as opened:
            for one in ids:
                for _ in opened.chunks(one):
                    pass

    ways: dict[str, Callable[[], object]] = {
        "raw file": lambda: [(raw / str(number)).read_bytes() for number in range(count)],
        "AES-GCM, in memory": lambda: [gcm(one, cipher) for one in sealed],
        "vault, same process": lambda: through(engine),
        "vault, its own process": lambda: through(remote),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            took[name].append(seconds(work))
    best = median(took["vault, its own process"])
    print(f"{count:,} x {size:,} bytes ({total:.0f} MB)")
    print(f"  {'stored':24} {total / stored:8,.0f} MB/s  {count / stored:9,.0f} objects/s")
    for name, each in took.items():
        spent = median(each)
        print(
            f"  {name:24} {total / spent:8,.0f} MB/s  {count / spent:9,.0f} objects/s"
            f"  the vault is {spent / best:.2f} x as fast"
        )
    print(f"  {'commit of the use':24} {median([seconds(lambda: use(remote)) for _ in range(3)]) * 1e3:8.1f} ms")
    ids.clear()


def use(vault: Vault) -> None:
    """A use in which nothing is read."""
    with vault.use(ids, "HRESCH", ME, "bench"):
        pass


def opening(home: Path) -> None:
    """Print what it takes until a command has its vault."""

    def once() -> None:
        RemoteVault.open(home, PASSPHRASE).close()

    def engine() -> None:
        Vault.open(home, PASSPHRASE).close()

    ours, same = median([seconds(once) for _ in range(ROUNDS)]), median([seconds(engine) for _ in range(ROUNDS)])
    print(
        f"open: {ours * 1e3:.0f} ms with a process of its own, {same * 1e3:.0f} ms in the same one (Argon2id included)"
    )


def trail(vault: Vault) -> None:
    """Print what the step events of a training run cost: a tiny model, with and without them, in turns."""
    import torch
    from PIL import Image

    from appliance.jobs.common import Desk
    from appliance.jobs.learn import StepEvents
    from appliance.jobs.rehearsal import rehearsal
    from appliance.starter.where import STARTER
    from train.lora import LoraConfig
    from train.models.features import Features
    from train.models.loading import load
    from train.sft import SftConfig, run_sft

    class Kept:
        """Checkpoints in memory: only the events' cost is asked for."""

        def save(self, data: bytes) -> None: ...

        def load(self) -> bytes | None:
            return None

    torch.manual_seed(0)
    talks, drawn = rehearsal(48)
    loaded = load(STARTER, "nf4")
    features = Features(loaded, lambda name: drawn[name] if name in drawn else Image.new("RGB", (1, 1)))
    config = SftConfig(epochs=1, rows_per_step=2, checkpoint_every=10_000, lora=LoraConfig(8, 16))
    run = vault.catalogue.start_run("train", {}, 0, "")
    members = vault.put_many([NewObject("image", b"%d" % number, "P-BENCH") for number in range(32)], actor=ME)
    pairs = zip(members[::2], members[1::2], strict=True)
    rows = [Record("", "P-BENCH", image, report, image, "train") for image, report in pairs]
    records = tuple(vault.catalogue.add_record(row).id for row in rows)
    noted: list[float] = []

    def train(tell: bool) -> float:
        events = StepEvents(Desk(vault, ME), run, members, resumed=False)

        def told(step: int, _: object) -> None:
            if tell:
                noted.append(seconds(lambda: events.used(step, records)))

        spent = seconds(lambda: run_sft(loaded, talks, features, config, Kept(), lambda *_: None, told))
        return spent + seconds(events.flush)

    train(True)
    noted.clear()
    without, with_ = [], []
    for _ in range(3):
        without.append(train(False))
        with_.append(train(True))
    steps = len(noted) // 3
    a_step, event = median(without) / steps, sum(noted) / len(noted)
    commit = median([seconds(lambda: vault.record(Event("note", ME))) for _ in range(30)])
    print(
        f"trail: {steps} steps of {a_step * 1e3:.0f} ms; with events {median(with_) / median(without):.3f} x the time"
    )
    print(f"  an event a step costs {event * 1e3:.2f} ms on average = {event / a_step:.2%} of such a step,")
    print(f"  {event:.3%} of a step of one second; one commit takes {commit * 1e3:.2f} ms")


def steps(vault: Vault) -> None:
    """What telling the steps of a training costs, 16 records each, as they are committed together every 5 seconds."""
    from appliance.jobs.common import Desk
    from appliance.jobs.steps import StepEvents

    members = vault.put_many([NewObject("image", b"%d" % number, "P-BENCH") for number in range(2000)], actor=ME)
    pairs = zip(members[::2], members[1::2], strict=True)
    rows = [Record("", "P-BENCH", image, report, image, "train") for image, report in pairs]
    records = [vault.catalogue.add_record(row).id for row in rows]
    events = StepEvents(Desk(vault, ME), vault.catalogue.start_run("train", {}, 0, ""), members, resumed=False)
    events.used(0, records[:16])
    print(f"steps: the first commit of a run, over a data set of 2,000 objects, {seconds(events.flush) * 1e3:.0f} ms")
    for together in (1, 5, 50):

        def told(together: int = together) -> None:
            for step in range(together):
                events.used(1 + step, records[step * 16 : step * 16 + 16])
            events.flush()

        each = median([seconds(told) for _ in range(20)]) / together
        print(f"  {together:2} steps a commit: {each * 1e3:.2f} ms a step, {each:.2%} of a step of one second")


def main() -> int:
    """Print the page."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as name:
        folder = Path(name)
        with two_vaults(folder) as vaults:
            if "--trail" in sys.argv:
                trail(vaults[1])
                return 0
            if "--steps" in sys.argv:
                steps(vaults[1])
                return 0
            reading(vaults, folder, LARGE, 1)
            reading(vaults, folder, SMALL, COUNT)
            opening(folder / "home")
            steps(vaults[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
