#!/usr/bin/env bash
# The transformer on the CPU beside PyTorch, two threads each, in one run. PyTorch goes into a
# throw-away environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet numpy torch
cargo build --release --quiet --package xtask --features cpu --bin bench
for _ in 1 2 3; do
    "$environment/bin/python" xtask/pytorch/dit.py --threads 2
    RAYON_NUM_THREADS=2 target/release/bench dit --preset small
done
