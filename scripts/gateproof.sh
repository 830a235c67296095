#!/usr/bin/env bash
# Proves bench gate: an unchanged build passes in every one of RUNS runs, and a disabled fusion, one
# thread fewer and a coarser quantisation are caught in every one; "too noisy to say" is a miss. It prints a Markdown table
# of the exit codes. Needs bin/qwenrt. The machine need not be quiet, but must have a core to spare for the second thread: without
# one, one thread is as fast as two, and the gate says so.
#
#     [CHECKPOINT=models/tiny/qwen3-tiny] [CASES='thread|fused'] [RUNS=20] scripts/gateproof.sh
#
# CASES is a regular expression for the names of the changes; by default all of them are run.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-20} work=${WORK:-build/gateproof} qwenrt=${QWENRT:-bin/qwenrt}
checkpoint=${CHECKPOINT:-models/tiny/qwen3-tiny} cases=${CASES:-.}
mkdir -p "$work"
build() { "$qwenrt" build "$checkpoint" -o "$work/$1" --force "${@:2}" >/dev/null 2>&1; }
build base
build same
build fp32 --precision none
build unfused --disable attention
build coarse --block-size 128

rounds=(--slice 2ms --round 250ms --budget 3m)
speed=(-p 0 -n 64 "${rounds[@]}")
accuracy=(--text models/testdata/reference/eval.txt --reference "$work/fp32" --ctx 64 --chunks 16 --metric ppl,kld,top1)
echo "| change | gate | wanted | right | seconds a run |"
echo "|---|---|---:|---:|---:|"
proof() { # name, gate, wanted exit code, arguments of bench gate
	[[ $1 =~ $cases ]] || return 0
	local right=0 start=$SECONDS
	for ((i = 0; i < runs; i++)); do
		local code=0
		"$qwenrt" bench gate "${@:4}" --seed "$i" >"$work/last" 2>&1 || code=$?
		if [[ $code == "$3" ]]; then right=$((right + 1)); else cat "$work/last" >&2; fi
	done
	echo "| $1 | $2 | $3 | $right of $runs | $(((SECONDS - start) / runs)) |"
}
proof "none: built twice" "decoding, 5 %" 0 "$work/same" --against "$work/base" -t 1 "${speed[@]}"
proof "none: built twice" "perplexity, KL divergence, top-1" 0 "$work/same" --against "$work/base" -t 2 "${accuracy[@]}"
proof "blocks of 128 for 32" "perplexity, KL divergence, top-1" 1 "$work/coarse" --against "$work/base" -t 2 "${accuracy[@]}"
proof "attention not fused" "decoding, 5 %" 1 "$work/unfused" --against "$work/base" -t 1 "${speed[@]}"
proof "one thread for two" "prefill of 64, 5 %" 1 "$work/base" --against "$work/base" -t 2,1 -p 64 -n 0 "${rounds[@]}"
