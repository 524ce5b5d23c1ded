#!/usr/bin/env bash
# Write packaging/locks/*.txt anew from setup.cfg, with the digest of every file: packaging/lock.sh (needs uv on PATH)
#   base.txt  what a compliance officer's laptop needs    dev.txt  everything, tests and linters included
# torch is left out: `make setup` installs it first, in the build (CPU, CUDA) that the machine offers.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local to=$1
    shift
    {
        echo "# Made by packaging/lock.sh from setup.cfg; do not edit. Install with: pip install --no-deps --require-hashes -r $to"
        uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
            --python-platform x86_64-unknown-linux-gnu ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
            --no-emit-package torch --no-emit-package triton "$@" pyproject.toml |
            awk '/^[^ ]/ { keep = !/^(nvidia|cuda)-/ } keep' # a CUDA build of torch brings its own
    } >"$to.new"
    mv "$to.new" "$to"
}

lock packaging/locks/base.txt
lock packaging/locks/dev.txt --all-extras
