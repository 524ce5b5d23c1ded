"""Asking the appliance's own model about an image."""
