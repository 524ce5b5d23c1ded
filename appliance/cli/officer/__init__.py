"""The compliance officer's commands, `cloche audit`: keys, proof, questions and papers."""
