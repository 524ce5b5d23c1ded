"""One stage of the main job in its own process, as small as it can be: `python -m tests.appliance.stages HOME STAGE`.

What the stages do is what `cloche synth`, `train` and so on do; only the numbers are smaller than the commands allow.
This process must not touch keys, object files or the log itself: it is stopped where it tries.
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image, PngImagePlugin

STAGES = ("synth", "train", "align", "export", "ask")
"""In order."""
RECORDS = 8
"""Pictures of the little hospital, two of each patient."""


def write_hospital(
    folder: Path, captions: str = "", metadata: str = "", name: str = "slice", number: str = "N"
) -> Path:
    """A folder of drawn pictures with captions that the starter understands.

    Args:
        captions: a sentence at each caption's end.
        metadata: text in each picture's own metadata.
        name: beginning of the pictures' file names.
        number: beginning of the patients' numbers.
    """
    from appliance.starter.descriptions import picture
    from appliance.starter.pictures import draw

    folder.mkdir()
    rng, lines = random.Random(5), []
    for k in range(RECORDS):
        drawing = draw(rng)
        info = PngImagePlugin.PngInfo()
        info.add_text("PatientName", metadata)
        exif = Image.Exif()
        exif[0x010E] = metadata
        drawing.image.save(folder / f"{name}{k}.png", pnginfo=info, exif=exif)
        caption = f"{picture(drawing.scene, rng).caption} {captions}".strip()
        lines.append(json.dumps({"image": f"{name}{k}.png", "caption": caption, "patient": f"{number}{k // 2:04}"}))
    source = folder / "pairs.jsonl"
    source.write_text("\n".join(lines) + "\n")
    return source


def run(home: Path, stage: str) -> None:
    """Run one stage; progress goes to stderr, a line a step."""
    from appliance.jobs.common import Desk
    from appliance.settings import Settings, open_vault
    from appliance.starter.where import STARTER

    def report(done: int, total: int, what: str) -> None:
        print(f"{stage}: {done}/{total} {what}", file=sys.stderr, flush=True)

    with open_vault(Settings(home), "steward") as (vault, actor):
        desk = Desk(vault, actor, report)
        if stage == "synth":
            from appliance.jobs.synthesise import Writers, synthesise
            from synth.pipeline import SynthConfig

            synthesise(desk, Writers(STARTER, STARTER), SynthConfig(borrow=4, max_new_tokens=160, chunk=4))
        elif stage == "train":
            from appliance.jobs.learn import train
            from train.lora import LoraConfig
            from train.sft import SftConfig

            config = SftConfig(epochs=3, rows_per_step=4, checkpoint_every=1, lora=LoraConfig(4, 8))
            train(desk, STARTER, config, rehearse=2)
        elif stage == "align":
            from appliance.jobs.align import align
            from train.rl.grpo import GrpoConfig

            align(desk, STARTER, GrpoConfig(steps=2, prompts=2, group=2, checkpoint_every=1))
        elif stage == "export":
            from appliance.jobs.export import ExportConfig, export
            from appliance.jobs.questions import prompts_of
            from train.models.directory import family_of

            prompts = prompts_of(desk, None, family_of(STARTER).fitted, 2)
            export(desk, STARTER, ExportConfig(max_tokens=4, bounded=False), prompts)
        else:
            from appliance.ask.answer import ask

            report(0, 1, "asking")
            print(ask(vault, actor, Image.new("RGB", (64, 64)), ["Is there a lesion?"])[0].text)


def keep_away(home: Path) -> None:
    """End this process where it opens what is the vault's alone."""
    ours = [str(home / part) for part in ("keys", "audit", "vault/objects", "vault/incoming")]

    def see(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "sqlite3.connect") and str(arguments[0]).startswith(tuple(ours)):
            raise RuntimeError("this is the vault's own process's to open")

    sys.addaudithook(see)


if __name__ == "__main__":
    keep_away(Path(sys.argv[1]))
    run(Path(sys.argv[1]), sys.argv[2])
