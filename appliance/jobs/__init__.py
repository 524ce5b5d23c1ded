"""The stages of the main job on one appliance: each takes the vault and can be cut off and run again."""
