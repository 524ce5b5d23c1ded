"""`cloche audit`: the table of contents of what a compliance officer types, on the box or on a laptop."""

import click

from appliance.cli.lazy import Entry, LazyGroup

KEYS, PROOF, QUESTIONS = "Keys", "Proof", "Questions"
COMMANDS: dict[str, Entry] = {
    "keygen": Entry("appliance.cli.officer.keys:keygen", KEYS, "Make a key pair that can read the log."),
    "recipient": Entry(
        "appliance.cli.officer.recipient:recipient", KEYS, "Say who can read the log; add or retire one."
    ),
    "drill": Entry("appliance.cli.officer.drill:drill", KEYS, "Prove that the recipients' keys still read the log."),
    "rotate-key": Entry("appliance.cli.officer.rotate:rotate_key", KEYS, "Hand the log over to a new key of its own."),
    "new-origin": Entry(
        "appliance.cli.officer.restart:new_origin", KEYS, "Begin a new log after a loss, theft or restore."
    ),
    "verify": Entry("appliance.cli.officer.proof:verify", PROOF, "Verify every entry with the log's public key alone."),
    "carry": Entry("appliance.cli.officer.carry:carry", PROOF, "Copy the log to one file that can be taken away."),
    "prove": Entry("appliance.cli.officer.carry:prove", PROOF, "Write the proof that one entry stands in the log."),
    "show": Entry("appliance.cli.officer.show:show", QUESTIONS, "Decrypt the log's events and list them."),
    "trace": Entry("appliance.cli.officer.trace:trace", QUESTIONS, "Show what a thing was made from, and became."),
}
"""Every command of `cloche audit`, in the order in which an officer meets them."""


@click.command(cls=LazyGroup, contents=COMMANDS)
def audit() -> None:
    """Read, verify and report what was done with data."""
