"""Write docs/events.md from the catalogue: `python -m audit.kinds_page`, or `make docs`."""

from audit.kinds import DETAIL, KINDS, LIFECYCLE, PURPOSES, SUBTYPES, TYPES

HEAD = """# What the log records

For compliance officers. `make docs` writes this page from `audit/kinds.py`, and a test compares the two.

Every event says: what happened (its kind), who did it (account, its number, the hospital's own number of the person
where known) in which role, for which purpose of use, how it ended, which patients (by the appliance's pseudonym) and
objects it touched, what it was part of, the reason, the software that acted (version, and a digest of the installed
files), the time (UTC) and the machine's own clock. By rule it holds no caption, question, answer or hospital number:
where it must point at a text, it holds the text's SHA-256, and each field that a person can fill is one short line.

`cloche audit show --fhir` gives the events as HL7 FHIR R4 AuditEvents. An event of several patients becomes one for
each patient, and one without a patient that lists the objects: the log does not say which object is whose.
Disclosures follow IHE BALP's PrivacyDisclosure.Source, de-identification the IHE De-Identification Handbook.

## Kinds of event

Action: C create, R read, U update, D delete, E execute. DICOM codes are those of PS3.15 A.5, life cycle is ISO 21089.
A kind with a star tells of a failure and never ends in success.
"""


def page() -> str:
    """The whole document."""
    rows = [
        f"| `{name}`{' *' if kind.fails else ''} | {kind.says} | {kind.action} | {kind.type} {TYPES[kind.type]} "
        f"| {f'{kind.subtype} {SUBTYPES[kind.subtype]}' if kind.subtype else ''} | {kind.lifecycle} |"
        for name, kind in KINDS.items()
    ]
    parts = [
        HEAD,
        "| kind | what happened | action | DICOM event | DICOM type | life cycle |",
        "|---|---|---|---|---|---|",
    ]
    parts += [*rows, "", "## Purposes of use", "", "HL7 v3 ActReason; nothing else opens the vault.", ""]
    parts += [f"- `{code}`: {name}" for code, name in PURPOSES.items()]
    parts += ["", "## Life cycle", "", "| code | ISO 21089:2017 |", "|---|---|"]
    parts += [f"| {code} | {name} |" for code, name in LIFECYCLE.items()]
    parts += ["", "## Details that mean the same everywhere", "", "| key | meaning |", "|---|---|"]
    parts += [f"| `{key}` | {meaning} |" for key, meaning in DETAIL.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
