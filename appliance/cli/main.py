"""The `cloche` command: what a person may type, where each command lives, and what becomes of its errors.

Nothing heavy is imported here. A command is a row of `COMMANDS`; its module is loaded when the command runs, or when
its own help is asked for, so that `cloche --help` answers in less than 200 ms.
"""

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.errors import ClocheError

BUG, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
"""Exit codes that are not an error's own (those are in audit.errors: 3 refused, 4 integrity, 5 gate, 6 environment)."""
FLOORS = ("appliance", "synth", "train", "audit")
"""Our own packages: a module that is missing there is a bug, not a missing installation."""


ANYONE, IT, STEWARD = "Anyone new", "Hospital IT", "Data steward"
CLINICIAN, OFFICER = "Clinician", "Compliance officer"
COMMANDS: dict[str, Entry] = {
    "demo": Entry("appliance.demo.command:demo", ANYONE, "See the whole main job on real images, in minutes."),
    "doctor": Entry("appliance.cli.operator:doctor", IT, "Check that this machine has all that Cloche needs."),
    "status": Entry("appliance.cli.operator:status", IT, "Say what the appliance holds, without its passphrase."),
    "passphrase": Entry("appliance.cli.passphrase:passphrase", IT, "Change the appliance's passphrase."),
    "custodian": Entry("appliance.cli.custodian:custodian", IT, "Hold the keys for every user, as a service."),
    "policy": Entry("appliance.cli.policy:policy", IT, "Say who may use what for which purpose; change it."),
    "backup": Entry("appliance.cli.backup:backup", IT, "Write the whole appliance to one sealed file."),
    "restore": Entry("appliance.cli.backup:restore", IT, "Make an appliance's home out of a backup."),
    "init": Entry("appliance.cli.steward:init", STEWARD, "Make an appliance: keys, vault and audit log."),
    "ingest": Entry("appliance.cli.ingest:ingest", STEWARD, "Bring images and captions into the vault."),
    "records": Entry("appliance.cli.records:records", STEWARD, "List the records; enter consent; link identities."),
    "synth": Entry("appliance.cli.steward:synth", STEWARD, "Turn captions into questions and answers."),
    "train": Entry("appliance.cli.train:train", STEWARD, "Teach a model the records (single-stage QLoRA)."),
    "align": Entry("appliance.cli.align:align", STEWARD, "Align the trained model by rewards (GRPO)."),
    "rewards": Entry("appliance.cli.rewards:rewards", STEWARD, "Say what rewards and domain rules pay for."),
    "domains": Entry("appliance.cli.domains:domains", STEWARD, "Say which transforms keep a domain's answers right."),
    "evaluate": Entry("appliance.cli.steward:evaluate", STEWARD, "Measure a model on held-out patients."),
    "export": Entry("appliance.cli.steward:export", STEWARD, "Make the GGUF that the clinic asks."),
    "models": Entry("appliance.cli.models:models", STEWARD, "List the models; say what one is."),
    "runs": Entry("appliance.cli.runs:runs", STEWARD, "List the runs; show, compare and plot them."),
    "forget": Entry("appliance.cli.forget:forget", STEWARD, "Make a patient's data unreadable for good."),
    "ask": Entry("appliance.cli.clinician:ask", CLINICIAN, "Ask a question about an image."),
    "audit": Entry("appliance.cli.officer.group:audit", OFFICER, "Read, verify and report what was done with data."),
}
"""Every command of `cloche`, in the order in which a person meets them."""


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"cloche {version('cloche')}")
        ctx.exit()


@click.command(
    cls=LazyGroup,
    contents=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--home",
    envvar="CLOCHE_HOME",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/.cloche"),
    show_default=True,
    show_envvar=True,
    help="The appliance's directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print data for a program on stdout, nothing else.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def cli(ctx: click.Context, home: Path, as_json: bool) -> None:
    """Teach an open vision-language model your own images, offline, and prove what was done with every record.

    \b
    Examples:
      cloche demo                          see it all work on real brain MRI
      cloche doctor                        is this machine ready?
      cloche COMMAND --help                every command has help with examples

    Exit codes: 0 done, 1 bug, 2 usage, 3 refused or bad input, 4 integrity failure, 5 gate failed, 6 environment.
    """
    ctx.obj = Settings(home=home.expanduser(), as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and end the process with its exit code; the entry point of `cloche`."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`cloche audit show | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command; return its exit code, after telling a person what went wrong and what to type next."""
    from audit.errors import ClocheError

    if "_CLOCHE_COMPLETE" in os.environ:  # the shell asks for completions, in click's own way
        cli.main(arguments, prog_name="cloche")
    try:
        with cli.make_context("cloche", arguments) as context:
            cli.invoke(context)
        return 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (KeyboardInterrupt, EOFError, click.exceptions.Abort):
        click.echo("\ncloche: stopped; the same command goes on from here.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        problem = error if isinstance(error, ClocheError) else _of_the_machine(error)
        if problem is not None:
            click.echo(f"cloche: {problem.diagnostics()}", err=True)
            return problem.exit_code
        if os.environ.get("CLOCHE_DEBUG") == "1":
            traceback.print_exception(error)
            return BUG
        click.echo(
            f"cloche: this is a bug of ours: {type(error).__name__}. Its message is left out, as it could quote data.\n"
            "  Next: type the same with CLOCHE_DEBUG=1 before it, and report what it prints",
            err=True,
        )
        return BUG


def _of_the_machine(error: Exception) -> "ClocheError | None":
    """Say in our words what the machine lacks or refused (memory, a package, disk, a right); None if it is a bug."""
    from audit.errors import EnvironmentProblem

    if isinstance(error, MemoryError):
        return EnvironmentProblem("there is not enough memory", hint="close other programs, or type cloche doctor")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in FLOORS:
        return EnvironmentProblem(
            f"this command needs the Python package {error.name}, which is not installed",
            hint="cloche doctor says what is missing and how to install it",
        )
    if not isinstance(error, OSError):
        return None
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem("the disk is full", where=where, hint="free some space, then type the same command")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentProblem(
            "this user may not read or write there", where=where, hint="see who owns it with ls -l, or choose another"
        )
    return None


if __name__ == "__main__":
    main()
