#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
# usage: scripts/fuzz.sh FUZZTIME   as go test -fuzztime takes it: 5m, or 20000x for a number of inputs
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:?usage: scripts/fuzz.sh FUZZTIME}

targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort)
while IFS=: read -r file declaration; do
	package=$(dirname "$file") target=${declaration#func }
	printf 'fuzz %s %s %s ... ' "$package" "$target" "$fuzztime"
	# Minimising every new input would take longer than the fuzzing itself.
	if ! output=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 100x "$package" 2>&1 </dev/null); then
		printf 'failed\n%s\n' "$output"
		exit 1
	fi
	echo ok
done <<<"$targets"
