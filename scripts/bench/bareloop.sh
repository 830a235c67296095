#!/usr/bin/env bash
# What qwenrt bench adds to a bare loop over ONNX Runtime's session (scripts/bareloop), on a model whose step takes next to
# nothing, as a markdown table.
#
#     make build && scripts/bench/bareloop.sh [DIR]
#
# The model is made in DIR, build/bench if it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${1:-build/bench}
mkdir -p "$dir"
go build -o "$dir/bareloop" ./scripts/bareloop
bin/qwenrt build models/testdata/checkpoints/small-bf16 -o "$dir/small" --precision none --force >/dev/null 2>&1
bin/qwenrt bench ab "exec:$dir/bareloop -t 1 -cache 256 $dir/small" "exec:bin/qwenrt bench worker $dir/small -t 1" \
    -p 16 -n 64 --slice 2ms --round 200ms --budget 6s
