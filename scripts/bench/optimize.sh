#!/usr/bin/env bash
# What the optimiser itself costs, with nothing written: wall time and peak memory for the shapes of Qwen3-0.6B and
# Qwen3-32B, as rows of a markdown table, exported from checkpoints without content (sparse files). The passes of each, with
# their times, go to standard error.
#
#     scripts/bench/optimize.sh [DIR]
#
# The checkpoints take a few megabytes in DIR, build/bench if it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${1:-build/bench}
mkdir -p "$dir"
go build -o "$dir" ./scripts/buildcost ./scripts/optimizecost ./scripts/randomqwen

echo "| model | wall s | peak RssAnon MB | VmHWM MB |"
echo "|---|---:|---:|---:|"
for size in 0.6B 32B; do
    checkpoint=$dir/sparse-${size,,}
    [[ -f $checkpoint/config.json ]] || "$dir/randomqwen" -size "$size" -sparse -o "$checkpoint" >&2
    "$dir/buildcost" -row "Qwen3-$size" "$dir/optimizecost" "$checkpoint" | tee >(grep -v '^|' >&2) | grep '^|'
done
