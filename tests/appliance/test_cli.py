"""The command line as a person and a program meet it."""

import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from appliance.cli import lazy
from appliance.cli import main as front
from appliance.cli.lazy import Entry
from appliance.cli.main import COMMANDS
from appliance.cli.reference import every_command, page
from appliance.settings import Settings
from audit import errors

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "numpy", "peft", "PIL", "llama_cpp", "rich", "sqlite_utils", "cryptography")
PAGES = [(name, command, context) for name, command, context in every_command()]


def loaded_by(program: str) -> set[str]:
    """Top-level modules in memory after `program`, in a process of its own."""
    tell = "import sys; print('\\n@', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{tell}"], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("@")[2].split())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """Make `cloche try` run a function; returns its command line."""

    def install(function: Callable[[], object]) -> list[str]:
        made = click.Command("try", callback=function)
        monkeypatch.setitem(COMMANDS, "try", Entry("tests:try", front.ANYONE, "For this test."))
        monkeypatch.setattr(lazy, "load", lambda entry: made)
        return ["try"]

    return install


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def test_help_imports_nothing_heavy() -> None:
    program = (
        "from appliance.cli.main import main\ntry: main(['--help'])\nexcept SystemExit as e: assert not e.code, e.code"
    )
    assert not loaded_by(program) & set(HEAVY)


def test_the_trust_floor_imports_nothing_heavy() -> None:
    assert not loaded_by("import audit, audit.errors") & set(HEAVY)
    assert not loaded_by("import audit, audit.verify, audit.events") & {"torch", "transformers", "numpy", "PIL"}


def test_help_lists_every_command_under_its_person(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    heading = {row: title for title in {entry.heading for entry in COMMANDS.values()} for row in [f"{title}:"]}
    person, found = "", {}
    for line in out.splitlines():
        person = heading.get(line, person)
        if person and line.startswith("  "):
            found[line.split()[0]] = person
    assert found == {name: entry.heading for name, entry in COMMANDS.items()}


@pytest.mark.parametrize(("name", "command_", "context"), PAGES, ids=[name for name, _, _ in PAGES])
def test_every_command_has_help_with_an_example(name: str, command_: click.Command, context: click.Context) -> None:
    text = command_.get_help(context)
    assert command_.help, f"{name} says nothing about itself"
    if not isinstance(command_, click.Group):
        # An example may carry options before the command's own name.
        assert any(set(name.split()[1:]) <= set(words) for words in typed(text)), f"{name} has no example"
    for option in command_.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]} has no help"


def typed(text: str) -> list[list[str]]:
    """The command lines in a help page or document: words after `cloche`, without pipes and placeholders."""
    lines = [line.strip().split(" | ")[0].split(" > ")[0] for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("cloche ")]
    return [line[1:] for line in words if "COMMAND" not in line]


def understand(words: list[str]) -> None:
    """Parse one command line as `cloche` would, without running it. Raises click.UsageError where it would not do."""
    command: click.Command = front.cli
    context = click.Context(front.cli, info_name="cloche", obj=Settings())
    while isinstance(command, click.Group):
        rest = command.make_parser(context).parse_args(list(words))[1]
        if not rest and command.invoke_without_command:  # a list, where nothing more is said
            return
        name, command, words = command.resolve_command(context, rest)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
    try:
        command.make_context(context.info_name, list(words), parent=context.parent)
    except click.BadParameter as error:
        if isinstance(error, click.MissingParameter) or "not exist" not in error.message:
            raise  # the files of an example need not be here; all else must fit


@pytest.mark.parametrize(("name", "command_", "context"), PAGES, ids=[name for name, _, _ in PAGES])
def test_examples_in_help_can_be_typed(name: str, command_: click.Command, context: click.Context) -> None:
    for words in typed(command_.help or ""):
        if name != "cloche":
            understand(words)


def test_command_lines_in_the_readme_can_be_typed() -> None:
    lines = typed((ROOT / "README.md").read_text())
    assert len(lines) > 5
    for words in lines:
        understand(words)


@pytest.mark.parametrize("line", ["doctor --nope", "nope", "doctor extra", "audit keygen"])
def test_a_wrong_example_is_caught(line: str) -> None:
    with pytest.raises(click.UsageError):
        understand(line.split())


def test_every_command_is_documented() -> None:
    document = (ROOT / "docs" / "commands.md").read_text()
    assert document == page(), "docs/commands.md is not what the commands say: type make docs"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadInput("line 17 is broken", where="captions.csv:17", hint="mend the line"), 3),
        (errors.Refused("the passphrase is wrong", hint="try again"), 3),
        (errors.IntegrityFailure("an object has changed", where="ab12", hint="cloche audit verify"), 4),
        (errors.GateFailed("accuracy fell", hint="cloche evaluate"), 5),
        (errors.EnvironmentProblem("no converter", hint="cloche doctor"), 6),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 6),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 6),
        (MemoryError(), 6),
        (ModuleNotFoundError("no torch", name="torch"), 6),
        (ModuleNotFoundError("no file of ours", name="train.nowhere"), 1),
        (KeyError("x"), 1),
        (KeyboardInterrupt(), 130),
        (click.UsageError("which?"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(
    error: BaseException,
    code: int,
    command: Callable[[Callable[[], object]], list[str]],
    run: Run,
) -> None:
    exited, out, err = run(*command(raising(error)))
    assert (exited, out) == (code, "")
    assert "Traceback" not in err
    if isinstance(error, errors.ClocheError):
        assert error.what in err and error.hint in err and error.where in err
    elif code == 6:
        assert "Next: " in err


def test_a_bug_does_not_quote_data(
    command: Callable[[Callable[[], object]], list[str]],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = command(raising(ValueError("Smith, John, 1970-01-01")))
    code, _, err = run(*line)
    assert code == 1 and "Smith" not in err and "CLOCHE_DEBUG=1" in err
    monkeypatch.setenv("CLOCHE_DEBUG", "1")
    code, _, err = run(*line)
    assert code == 1 and "Traceback" in err and "Smith" in err


@pytest.mark.parametrize("arguments", [[], ["nope"], ["doctor", "--nope"], ["--home"]], ids=str)
def test_usage_errors_exit_2(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and ("Usage:" in err or "--home" in err)


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = "from appliance.cli.main import main; main(['--help'])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_version(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version") == (0, f"cloche {version('cloche')}\n", "")


@pytest.mark.parametrize("arguments", [["--json", "doctor"], ["doctor", "--json"]], ids=" ".join)
def test_doctor_speaks_json(arguments: list[str], tmp_path: Path, run: Run) -> None:
    code, out, err = run("--home", str(tmp_path / "none"), *arguments)
    told = json.loads(out)
    assert err == "" and code == (0 if told["ready"] else 6)
    assert told["ready"] == all(finding["state"] != "missing" for finding in told["findings"])
    states = {finding["name"]: finding["state"] for finding in told["findings"]}
    assert states["python"] == states["packages: base"] == "ok"
    assert states["appliance"] == "note", "no appliance yet is nothing to repair"
    assert all(finding["next"] for finding in told["findings"] if finding["state"] == "missing")


def test_doctor_finds_a_home_that_others_can_read(tmp_path: Path, run: Run) -> None:
    (tmp_path / "cloche.json").write_text('{"format": 1, "made_by": "0.1.0"}')
    tmp_path.chmod(0o755)
    code, out, _ = run("--home", str(tmp_path), "doctor")
    assert code == 6 and f"chmod 700 {tmp_path}" in out


def test_doctor_misses_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    code, out, _ = run("doctor")
    assert code == 6 and "install_converter.py" in out


def test_status_without_an_appliance(tmp_path: Path, run: Run) -> None:
    code, out, err = run("--home", str(tmp_path / "none"), "status")
    assert (code, out) == (3, "") and "init" in err
    (tmp_path / "cloche.json").write_text("[]")
    assert run("--home", str(tmp_path), "status")[0] == 4
