"""The command line: one module a person, loaded only when one of its commands runs."""
