"""The clinician's command."""

import dataclasses
from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault


@click.command()
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("question")
@click.option("--choices", help="Answers to choose from, separated by commas; shows how likely each is.")
@click.option("--explain", is_flag=True, help="Let the model reason before it answers.")
@click.option("--max-tokens", type=click.IntRange(1, 512), default=64, show_default=True, help="Length of the answer.")
@json_option
@click.pass_obj
def ask(settings: Settings, image: Path, question: str, choices: str | None, explain: bool, max_tokens: int) -> None:
    """Ask this appliance's model a QUESTION about an IMAGE. The answer is not a diagnosis.

    \b
    Examples:
      cloche ask slice.png "Is there a lesion?"
      cloche ask slice.png "Which plane is this?" --choices axial,coronal,sagittal
    """
    from appliance.ask.answer import NOT_A_DIAGNOSIS, open_image
    from appliance.ask.answer import ask as put

    picture = open_image(image)
    listed = [c.strip() for c in choices.split(",") if c.strip()] if choices else []
    with open_vault(settings, "clinician") as (vault, actor):
        (said,) = put(vault, actor, picture, [question], short=not explain, choices=listed, max_tokens=max_tokens)
    click.echo(f"image: {said.size[0]}×{said.size[1]} → {said.visual_tokens} visual tokens", err=True)
    click.echo(
        f"{said.state} {said.model}, {said.id}, probability {said.share:.0%} (not calibrated). {NOT_A_DIAGNOSIS}",
        err=True,
    )
    spread = "\n".join(f"  {c:16} {p:6.1%}" for c, p in sorted(said.distribution.items(), key=lambda row: -row[1]))
    emit(settings, dataclasses.asdict(said) | {"notice": NOT_A_DIAGNOSIS}, "\n".join(filter(None, (said.text, spread))))
