"""`cloche audit rotate-key`: a new key for the log, signed for by the old one."""

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault


@click.command(name="rotate-key")
@json_option
@click.pass_obj
def rotate_key(settings: Settings) -> None:
    """Hand the log over to a new key of its own, signed by the old one and the new one.

    Do it every year or two, and when who knew the passphrase leaves. Who pinned the old key can still verify the whole
    log. It is no remedy for a key that was stolen: that is `cloche audit new-origin`. Nobody else may use the appliance
    meanwhile; the change is an event of the log.

    \b
    Examples:
      cloche audit rotate-key
    """
    from audit.checkpoint import VerifierKey

    with open_vault(settings, "officer", alone=True) as (vault, actor):
        old, new = (VerifierKey.from_text(line) for line in vault.ceremonies.rotate_key(actor))
    data = {"old": old.fingerprint, "new": new.fingerprint, "key": new.to_text()}
    emit(
        settings,
        data,
        f"old key: {old.fingerprint}\nnew key: {new.fingerprint}\n"
        "The old key's pin and the witness follow by themselves: the new key is signed for by the old one.\n"
        "Now write the new key's fingerprint and today's date on the paper form.",
    )
