"""The whole main job on a simulated hospital, from one command."""
