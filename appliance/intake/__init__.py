"""How pairs of image and text come into the vault: read them, check them all, take names out, then write."""
