#!/usr/bin/env bash
# What it costs to make a Qwen3-0.6B-shaped checkpoint into an INT4 model folder: wall time and peak memory,
# in one step and in three, as rows of a markdown table.
#
#     make build && scripts/bench/build.sh [DIR]
#
# The checkpoint (1.2 GB, random weights) is made in DIR, build/bench if it is not given, and kept there with
# the model. QWENRT_SIZE takes another size of scripts/randomqwen.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${1:-build/bench}
size=${QWENRT_SIZE:-0.6B}
checkpoint=$dir/qwen3-${size,,}
mkdir -p "$dir"
if [[ ! -f $checkpoint/complete ]]; then
    go run ./scripts/randomqwen -size "$size" -o "$checkpoint" >&2
    touch "$checkpoint/complete"
fi
go build -o "$dir/buildcost" ./scripts/buildcost
cat "$checkpoint"/*.safetensors >/dev/null # the disk is not what is measured

cost() { # NAME COMMAND...
    local out
    out=$("$dir/buildcost" -row "$@" 2>"$dir/log") || { cat "$dir/log" >&2; exit 1; }
    tail -n 1 <<<"$out"
}

steps() {
    cost "qwenrt build" bin/qwenrt build "$checkpoint" -o "$dir/int4" --force
    cost "qwenrt export" bin/qwenrt export "$checkpoint" -o "$dir/onnx" --force
    cost "qwenrt optimize" bin/qwenrt optimize "$dir/onnx" -o "$dir/optimized" --force
    cost "qwenrt quantize" bin/qwenrt quantize "$dir/optimized" -o "$dir/int4" --precision int4 --force
}

# The three steps together take the sum of the times, and the most memory that one of them takes.
together='{ print }
/export|optimize|quantize/ { wall += $3; if ($4 > anon) anon = $4; if ($5 > hwm) hwm = $5 }
END { printf "| the three steps | %.2f | %d | %d |\n", wall, anon, hwm }'

echo "| command | wall s | peak RssAnon MB | VmHWM MB |"
echo "|---|---:|---:|---:|"
steps | awk -F '|' "$together"
rm -r "$dir/onnx" "$dir/optimized"
