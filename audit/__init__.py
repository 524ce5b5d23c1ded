"""The trust floor: the sealed, tamper-evident log, and the vault that gives nothing out without it.

It imports no learning library, starts in well under 200 ms and can be installed and used alone (a compliance
officer's laptop). Public modules: `vault`, `events`, `fhir`, `log`, `verify`, `checkpoint`, `keys`, `manifest`,
`lineage`, `conversation`, `errors`. The format of the log is given to the byte in docs/audit-format.md.
"""
