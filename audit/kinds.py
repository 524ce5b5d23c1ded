"""The catalogue: every kind of event there is, with its place in DICOM, ISO 21089 and FHIR.

docs/events.md is made of this file (`audit/kinds_page.py`). Sources: HL7 FHIR R4 AuditEvent; IHE BALP; IHE
De-Identification Handbook; DICOM PS3.15 A.5 and PS3.16 CID 400 to 403; ISO TS 21089:2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PURPOSES: Mapping[str, str] = {
    "TREAT": "treatment",
    "HRESCH": "healthcare research",
    "HOPERAT": "healthcare operations",
}
"""Purposes of use (HL7 v3 ActReason) that may open the vault."""
OUTCOMES: Mapping[str, str] = {"success": "0", "minor": "4", "serious": "8", "major": "12"}
"""Outcome -> FHIR audit-event-outcome code."""
TYPES: Mapping[str, str] = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110106": "Export",
    "110107": "Import",
    "110110": "Patient Record",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
}
"""DICOM event ids that are in use here, with their names."""
SUBTYPES: Mapping[str, str] = {
    "110122": "Login",
    "110129": "Security Configuration",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110133": "Audit Recording Stopped",
    "110134": "Audit Recording Started",
}
"""DICOM event type codes that are in use here, with their names."""
LIFECYCLE: Mapping[str, str] = {
    "access": "Access/View Record Lifecycle Event",
    "amend": "Amend (Update) Record Lifecycle Event",
    "archive": "Archive Record Lifecycle Event",
    "attest": "Attest Record Lifecycle Event",
    "deidentify": "De-Identify (Anononymize) Record Lifecycle Event",  # the code system spells it so
    "deprecate": "Deprecate Record Lifecycle Event",
    "destroy": "Destroy/Delete Record Lifecycle Event",
    "disclose": "Disclose Record Lifecycle Event",
    "extract": "Extract Record Lifecycle Event",
    "link": "Link Record Lifecycle Event",
    "originate": "Originate/Retain Record Lifecycle Event",
    "receive": "Receive/Retain Record Lifecycle Event",
    "restore": "Restore Record Lifecycle Event",
    "transform": "Transform/Translate Record Lifecycle Event",
    "unlink": "Unlink Record Lifecycle Event",
    "verify": "Verify Record Lifecycle Event",
}
"""ISO 21089 lifecycle events that are in use here, with their names."""


@dataclass(frozen=True)
class Kind:
    """A kind of event and its place in the standards."""

    action: str
    """FHIR audit-event-action: C create, R read, U update, D delete, E execute; the one that DICOM asks for."""
    type: str
    """DICOM event id, a key of `TYPES`."""
    subtype: str
    """DICOM event type code, a key of `SUBTYPES`, or empty where none fits."""
    lifecycle: str
    """ISO 21089 lifecycle event, a key of `LIFECYCLE`, or empty where no record is concerned."""
    says: str
    """What happened, in a few words."""
    fails: bool = False
    """Whether the event tells of a failure: it then never ends in success."""
    purpose: str = ""
    """Purpose of the event itself where its kind fixes one, whatever the actor's purpose of use is."""

    @property
    def outcome(self) -> str:
        """How an event of this kind ends unless it says so itself."""
        return "serious" if self.fails else "success"


KINDS: Mapping[str, Kind] = {
    "appliance.created": Kind("E", "110113", "110134", "", "the appliance and its log were made"),
    "appliance.checked": Kind("E", "110100", "", "", "the appliance checked itself"),
    "appliance.upgraded": Kind("E", "110113", "110131", "", "the software was upgraded or rolled back"),
    "appliance.removed": Kind("E", "110113", "110133", "", "the software was removed and the log kept"),
    "settings.changed": Kind("E", "110113", "110131", "", "a setting changed"),
    "keys.changed": Kind("E", "110113", "110129", "", "a key or a recipient changed"),
    "keys.drilled": Kind("E", "110100", "", "", "a recipient proved that the log can be read"),
    "access.opened": Kind("E", "110114", "110122", "", "somebody unlocked the appliance"),
    "access.refused": Kind("E", "110113", "110132", "", "somebody was refused", fails=True),
    "offline.proven": Kind("E", "110100", "", "", "a run was watched for network use"),
    "heartbeat": Kind("E", "110100", "", "", "nothing happened; the log is alive"),
    "checkpoint.witnessed": Kind("E", "110100", "", "", "a witness cosigned a checkpoint"),
    "log.restarted": Kind("E", "110113", "110134", "", "a new log took over from an older one"),
    "backup.made": Kind("R", "110106", "", "archive", "a backup was made"),
    "backup.restored": Kind("C", "110107", "", "restore", "a backup was restored"),
    "record.ingested": Kind("C", "110107", "", "receive", "a record came in"),
    "record.refused": Kind("C", "110107", "", "", "a record was refused", fails=True),
    "record.deidentified": Kind("R", "110106", "", "deidentify", "a record was de-identified", purpose="HRESCH"),
    "record.reviewed": Kind("U", "110110", "", "amend", "a person reviewed a record"),
    "record.consented": Kind("U", "110110", "", "amend", "consent for records was entered, changed or withdrawn"),
    "patient.linked": Kind("U", "110110", "", "link", "two identities were found to be one patient"),
    "patient.unlinked": Kind("U", "110110", "", "unlink", "two identities were found to be two patients"),
    "object.stored": Kind("C", "110110", "", "originate", "objects were put into the vault"),
    "object.used": Kind("R", "110110", "", "access", "objects were opened"),
    "object.deleted": Kind("D", "110110", "", "destroy", "objects were deleted"),
    "patient.forgotten": Kind("D", "110110", "", "destroy", "a patient was forgotten"),
    "sample.made": Kind("C", "110110", "", "transform", "samples were written from records"),
    "canary.planted": Kind("C", "110110", "", "", "made-up patients were put among the samples, to find leaks by"),
    "dataset.frozen": Kind("C", "110110", "", "transform", "a data set was frozen"),
    "run.started": Kind("E", "110100", "", "", "a run started"),
    "run.step": Kind("E", "110110", "", "transform", "a run took steps"),
    "run.resumed": Kind("E", "110100", "", "", "a run went on where it was cut off"),
    "run.stopped": Kind("E", "110100", "", "", "a run was stopped by hand and can go on"),
    "run.finished": Kind("E", "110100", "", "", "a run ended"),
    "run.failed": Kind("E", "110100", "", "", "a run failed", fails=True),
    "model.stored": Kind("C", "110110", "", "transform", "a model was stored"),
    "model.quantised": Kind("C", "110110", "", "transform", "a model was written in fewer bits"),
    "model.evaluated": Kind("E", "110110", "", "verify", "a model was measured"),
    "model.probed": Kind("E", "110110", "", "verify", "a model was tested for leaks"),
    "model.signed": Kind("E", "110100", "", "attest", "a model was signed"),
    "model.exported": Kind("R", "110106", "", "extract", "a model left the vault"),
    "model.loaded": Kind("E", "110110", "", "access", "a model was loaded"),
    "model.kept": Kind("E", "110100", "", "", "a model that learned from a forgotten patient was kept"),
    "model.retired": Kind("E", "110100", "", "deprecate", "a model was retired"),
    "question.answered": Kind("E", "110112", "", "access", "a question was answered"),
    "disclosure.made": Kind("R", "110106", "", "disclose", "something left the vault on purpose"),
    "audit.read": Kind("R", "110101", "", "access", "the log was read"),
    "audit.exported": Kind("R", "110101", "", "extract", "the log was copied out"),
    "audit.reviewed": Kind("R", "110101", "", "verify", "the log was reviewed (45 CFR 164.308)"),
    "note": Kind("E", "110100", "", "", "a remark"),
}
"""Every kind of event there is."""
DETAIL: Mapping[str, str] = {
    "run": "id of the run that it belongs to",
    "model": "id of the model",
    "manifest": "root of the data set's manifest, hex",
    "step": "first step that a resumed run takes, from 0",
    "steps": "first and last step that an entry tells of, from 0",
    "batches": "for each of these steps the places of what it learned from in the manifest's leaf list",
    "records": "for each of these steps the places of its records among the event's objects",
    "parents": "what the objects were made from: by object its parents' ids, or for many their count and Merkle root",
    "follows": "sequences, in this log, of the events that it follows from",
    "before": "SHA-256 of what was changed, as it was before, hex",
    "after": "SHA-256 of what was changed, as it is now, hex",
    "change": "which change it was, such as `recipient added`",
    "source": "name of the system or carrier that data came from",
    "to": "name of the file or carrier that data went to",
    "recipient": "who received a disclosure",
    "address": "address of who received it, where known",
    "description": "what was disclosed, in a few words",
    "method": "name and version of the de-identification that was done",
    "question": "SHA-256 of the question, hex; its words are not kept",
    "answer": "SHA-256 of the answer, hex; its words are not kept",
    "from": "first entry of the log that was read or reviewed",
    "until": "entry before which the reading or review ended",
    "command": "the command that read the log",
    "findings": "what a review found, in a few words",
    "checkpoint": "root of the checkpoint that was witnessed or carried over, hex",
}
"""Keys of an event's `detail` that mean the same in every event; others belong to the kind."""
