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
    "checkpoint": Entry(
        "appliance.cli.officer.checkpoint:checkpoint", PROOF, "Write the newest checkpoint and a proof."
    ),
    "witness": Entry("appliance.cli.officer.witness:witness", PROOF, "Cosign a checkpoint on your own machine."),
    "visit": Entry("appliance.cli.officer.visit:visit", PROOF, "Write what is to be carried to the appliance."),
    "import": Entry("appliance.cli.officer.visit:import_", PROOF, "Take in what the officer's machine sends."),
    "heartbeat": Entry("appliance.cli.officer.heartbeat:heartbeat", PROOF, "Say in the log that it is alive."),
    "show": Entry("appliance.cli.officer.show:show", QUESTIONS, "Decrypt the log's events and list them."),
    "patient": Entry("appliance.cli.officer.subjects:patient", QUESTIONS, "Tell everything about one patient."),
    "user": Entry("appliance.cli.officer.subjects:user", QUESTIONS, "Tell what one person did."),
    "model": Entry("appliance.cli.officer.subjects:model", QUESTIONS, "Tell where a model came from and went."),
    "absent": Entry("appliance.cli.officer.absent:absent", QUESTIONS, "Prove that a model never saw a patient's data."),
    "disclosures": Entry("appliance.cli.officer.disclosures:disclosures", QUESTIONS, "Account for what left the box."),
    "review": Entry("appliance.cli.officer.review:review", QUESTIONS, "Record that you reviewed the log."),
    "export": Entry("appliance.cli.officer.export:export", QUESTIONS, "Write the events as FHIR, CSV or JSON lines."),
    "report": Entry("appliance.cli.officer.report:report", QUESTIONS, "Write a page for the file: charts and proof."),
    "trace": Entry("appliance.cli.officer.trace:trace", QUESTIONS, "Show what a thing was made from, and became."),
}
"""Every command of `cloche audit`, in the order in which an officer meets them."""


@click.command(cls=LazyGroup, contents=COMMANDS)
def audit() -> None:
    """Read, verify and report what was done with data."""
