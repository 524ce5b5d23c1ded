"""Rules of a domain that a clinician can read and review; docs/rewards.md says how to write them."""
