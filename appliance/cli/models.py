"""`cloche models`: what the catalogue lists, and what one model is, in the catalogue or in a directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

if TYPE_CHECKING:
    from audit.rows import Model

COMMANDS = {
    "list": Entry("appliance.cli.models:list_", "Commands", "List the models, with what each was made from."),
    "show": Entry("appliance.cli.models:show", "Commands", "Say what a model directory is, or a model of the list."),
}


@click.group(cls=LazyGroup, contents=COMMANDS, invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the models, with what each was made from; say what one is.

    \b
    Examples:
      cloche models
      cloche models --json
      cloche models show /models/Qwen2-VL-2B-Instruct
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.obj)


@click.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the models, with what each was made from.

    \b
    Examples:
      cloche models list
      cloche models list --json
    """
    _list(settings)


@click.command()
@click.argument("model")
@json_option
@click.pass_obj
def show(settings: Settings, model: str) -> None:
    """Say what a model is: a directory that was brought here, or a model of `cloche models`.

    Of a directory: family, parameters, licence, visual tokens an image, context, memory to train and to serve, and
    digests; no weight is loaded.

    \b
    Examples:
      cloche models show /models/Qwen2-VL-2B-Instruct
      cloche models show model-4f8a21c0de --json
    """
    if model.startswith("model-") and not Path(model).exists():
        with open_vault(settings, "steward") as (vault, _):
            found = vault.catalogue.model(model)
            objects = [vault.catalogue.object(name) for name in found.objects]
        data = _row(found) | {
            "run": found.run,
            "note": dict(found.note),
            "files": {o.id: {"kind": o.kind, "bytes": o.size, "sha256_encrypted": o.digest} for o in objects},
        }
        emit(settings, data, "\n".join(f"{key:12}{value}" for key, value in _flat(data)))
        return
    from train.models.about import about

    data = about(Path(model))
    emit(settings, data, _told(data))


def _told(data: dict[str, Any]) -> str:
    """A directory's description for a person."""
    licence = data["licence"]
    rows = [
        ("family", data["family"]),
        ("parameters", ", ".join(f"{name} {_count(n)}" for name, n in data["parameters"].items())),
        ("licence", f"{licence['file']}: {licence['first_line']}" if licence["file"] else "no licence file is here"),
        ("visual tokens", ", ".join(f"{n} for {size}" for size, n in data["visual_tokens"].items())),
        ("context", f"{data['context']:,} tokens"),
        ("to train", ", ".join(f"{_gib(n)} ({how})" for how, n in data["train_bytes"].items()) + ", one row"),
        ("to serve", ", ".join(f"{_gib(n)} ({how})" for how, n in data["serve_bytes"].items())),
        ("digest", data["digest"]),
        *((f"  {name}", f"{one['sha256']}  {one['bytes']:,} bytes") for name, one in data["files"].items()),
    ]
    wide = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{wide}}{said}" for name, said in rows)


def _list(settings: Settings) -> None:
    with open_vault(settings, "steward") as (vault, _):
        rows = [_row(m) for m in vault.catalogue.models()]
    emit(
        settings,
        rows,
        "\n".join(
            f"{r['id']}  {r['kind']:8} {r['state']:10} from {r['parent'] or 'the base':20}"
            f"  data {r['manifest'][:12]}  {r['created']}"
            for r in rows
        )
        or "no models; next: cloche train",
    )


def _row(m: "Model") -> dict[str, Any]:
    return {
        "id": m.id,
        "kind": m.kind,
        "state": m.note.get("state", ""),
        "parent": m.parent_model,
        "manifest": m.manifest_root,
        "created": m.created,
    }


def _flat(data: dict[str, Any]) -> list[tuple[str, Any]]:
    notes = [(f"  {key}", value) for key, value in data["note"].items()]
    files = [(f"  {name}", f"{one['kind']}, {one['bytes']:,} bytes") for name, one in data["files"].items()]
    return [(k, v) for k, v in data.items() if k not in ("note", "files")] + notes + files


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
