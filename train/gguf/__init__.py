"""From a base and an adapter to a GGUF that is measured, signed and asked: merge, convert, quantise, verify, run."""
