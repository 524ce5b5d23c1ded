"""Tables of what may be done to a picture without making its answer wrong; one TOML file a domain."""
