"""Options of a command out of the fields of a settings class: what is there appears, and its docstring is the help.

The class is read as text, so that `--help` needs neither torch nor anything else that the class's module imports.
"""

import ast
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class Field:
    """One field of a settings class."""

    name: str
    """As in the class."""
    kind: str
    """``int``, ``float``, ``bool`` or ``str``."""
    choices: tuple[str, ...]
    """What a ``Literal`` allows; empty for other fields."""
    default: Any
    """Its default."""
    says: str
    """Its docstring, in one line."""


def fields_of(module: str, name: str) -> list[Field]:
    """The fields of a class whose defaults are plain values, in order; others are left out."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None  # noqa: S101 a bug of ours, not input
    tree = ast.parse(Path(spec.origin).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = []
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            try:
                default = ast.literal_eval(node.value)
            except ValueError:
                continue  # another class: its own fields are its options
            kind, choices = _kind(node.annotation)
            says = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            found.append(Field(node.target.id, kind, choices, default, " ".join(says.split()).replace("``", "")))
    return found


def _kind(annotation: ast.expr) -> tuple[str, tuple[str, ...]]:
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        held = ast.literal_eval(annotation.slice)
        return "str", tuple(held) if isinstance(held, tuple) else (held,)
    return ast.unparse(annotation).partition(" ")[0], ()


def options(fields: list[Field], names: Mapping[str, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds one option a field.

    Args:
        names: field to option where they differ, such as ``patience`` to ``early-stop``.
    """
    kinds: dict[str, Any] = {"int": click.INT, "float": click.FLOAT, "str": click.STRING}

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(fields):
            option = f"--{names.get(one.name, one.name).replace('_', '-')}"
            told: dict[str, Any] = {"default": one.default, "show_default": True, "help": one.says}
            if one.kind == "bool":
                function = click.option(f"{option}/--no-{option[2:]}", one.name, **told)(function)
            else:
                kind = click.Choice(one.choices) if one.choices else kinds[one.kind]
                function = click.option(option, one.name, type=kind, **told)(function)
        return function

    return add


def values_in(path: Path, known: Mapping[str, str], lists: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The settings of a saved TOML file, by the command's parameter names.

    Args:
        known: key in the file to parameter.
        lists: parameters that may be given several times.
    Raises:
        BadInput: the file is no TOML, or has a key that the command does not know; the nearest is named.
    """
    import tomllib
    from difflib import get_close_matches

    from audit.errors import BadInput

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"the settings cannot be read: {error.strerror}",
            where=str(path),
            hint="cloche runs show RUN --config > run.toml",
        ) from error
    except ValueError as error:
        raise BadInput(
            "this is no TOML file of settings", where=str(path), hint="cloche runs show RUN --config > run.toml"
        ) from error
    for key, value in found.items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)
            raise BadInput(
                f"there is no setting {key!r}; the nearest is {near[0]!r}",
                where=str(path),
                hint="cloche runs show --help",
            )
        if isinstance(value, dict) or (isinstance(value, list) and known[key] not in lists):
            raise BadInput(f"the setting {key!r} is one plain value", where=str(path), hint="cloche runs show --help")
    return {known[key]: value for key, value in found.items()}


def as_toml(values: Mapping[str, Any]) -> str:
    """Plain values as TOML, one a line; what is None is left out, as TOML has no word for it."""
    import json

    return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items() if v is not None)


def resumed(ctx: click.Context, saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An interrupted run's settings; what was typed must not contradict them.

    Args:
        saved: the run's settings by parameter.
        given: this command line's.
    Raises: BadInput naming the setting that is another one.
    """
    from audit.errors import BadInput

    for name, value in saved.items():
        if was_typed(ctx, name) and given.get(name) != value:
            raise BadInput(
                f"the interrupted run has {name} = {value}, not {given[name]}",
                where="--resume",
                hint="leave the setting out to go on with that run; leave --resume out to begin another",
            )
    return {name: value for name, value in saved.items() if name in given}


def was_typed(ctx: click.Context, name: str) -> bool:
    """Whether a parameter stands on the command line or in the file of --config."""
    from click.core import ParameterSource

    return ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
