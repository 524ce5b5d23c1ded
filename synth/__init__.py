"""Triplets out of image-caption pairs: written by a local model, judged by another, assembled into tasks."""
