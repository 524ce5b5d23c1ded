"""An appliance whose synthetic tasks are written out by hand, so that training has something to begin with."""

import io
from pathlib import Path

from PIL import Image

from appliance.jobs.common import Desk, begin, finish
from audit.actor import Actor
from audit.conversation import Conversation, Turn
from audit.keys import Cost, generate
from audit.rows import NewObject, Record
from audit.vault import Vault
from synth.triplet import Triplet

STEWARD = Actor("ada", "steward")
SECRET = b"correct horse battery staple"
RECORDS = 6


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (40 * number, 90, 20)).save(out, "PNG")
    return out.getvalue()


def appliance(folder: Path) -> Path:
    """Make an appliance with six records and one finished synth run; returns its home. Its passphrase lies beside."""
    home = folder / "home"
    recipients = [generate(name, "X25519").recipient for name in ("auditor", "recovery")]
    cheap = Cost(memory_kib=64, iterations=1, lanes=1)
    with Vault.create(home, SECRET, recipients, cost=cheap, actor=STEWARD) as vault:
        talks = []
        for k in range(RECORDS):
            patient = vault.pseudonym(f"N{k:04}")
            new = [NewObject("image", picture(k), patient), NewObject("report", b'{"caption": "A slice."}', patient)]
            image, report = vault.put_many(new, actor=STEWARD)
            vault.catalogue.add_record(Record(f"rec-{k}", patient, image, report, f"{k:064}", "train"))
            for j, (asked, said) in enumerate((("What plane?", "axial"), ("Is there a lesion?", "Yes."))):
                turns = (Turn("user", asked), Turn("assistant", said, True))
                talks.append(Conversation(f"c{k}/{j}", (image,), turns, f"rec-{k}", ("caption", "precise")[j]))
        lines = "\n".join(t.to_json() for t in talks).encode()
        desk = Desk(vault, STEWARD)
        written = begin(desk, "synth", {"samples": 1})
        held = vault.put("conversations", lines, actor=STEWARD, note={"run": written.id})
        kept = [
            Triplet(t.record, t.images[0], "Is there a lesion?", "Yes.", "There is one.").to_json()
            for t in talks
            if t.kind == "precise"
        ]
        triplets = vault.put("triplets", "\n".join(kept).encode(), actor=STEWARD, note={"run": written.id})
        finish(
            desk,
            written,
            {"conversations": held, "triplets": triplets, "pairs": RECORDS, "reasons": {}, "tasks": len(talks)},
        )
    secret = folder / "passphrase"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    return home
