"""The stages of the main job on one appliance: each takes the vault, does its work, and can be cut off and run again."""
