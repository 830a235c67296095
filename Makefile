# Every target works alone, in a fresh clone: it fetches and builds what it needs, and nothing twice.
# Needed: Go, a C and C++ compiler, Python's pip, cargo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Packages in which goroutines share memory. The race detector costs a second build of everything below them.
RACE_PKGS ?= ./ort/... ./runner ./runner/bench/... ./runner/chat ./runner/eval ./runner/grammar ./runner/sample ./runner/serve ./runner/tokenizer \
	./models/hub/... ./scripts/native/...
# In package accelerate only some tests do; the others quantise for minutes under the detector.
RACE_ACCELERATE ?= Together|Reconfigure|Panic|Closed|Prune
# Inputs for each fuzz target in make test: a count, so that a busy machine does not test less.
FUZZ_INPUTS ?= 20000x
# Time for each fuzz target in make fuzz.
FUZZ_TIME ?= 5m

DEMO := build/demo
PROMPT ?= What does "harbor" mean?

# Sets CGO_LDFLAGS and QWENRT_ORT_LIB; installs the native libraries when they are absent.
ENV = env=$$(go run ./scripts/native env) && eval "$$env"

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build bin/qwenrt
	@$(ENV) && go build -o bin/qwenrt ./cmd/qwenrt

.PHONY: demo
demo: build ## export, optimise and quantise the carried model, then answer a prompt
	@$(ENV) && PS4=$$'\n$$ ' && set -x && \
	bin/qwenrt export models/tiny/qwen3-tiny -o $(DEMO)/onnx --force && \
	bin/qwenrt optimize $(DEMO)/onnx -o $(DEMO)/optimized --force && \
	bin/qwenrt quantize $(DEMO)/optimized -o $(DEMO)/int4 --precision int4 --force && \
	bin/qwenrt run $(DEMO)/int4 -p '$(PROMPT)' --no-think --max-tokens 48 --temperature 0 --repetition-penalty 1.15

.PHONY: test
test: fmt vet lint unit race fuzz-short gate ## everything a change must pass

.PHONY: unit
unit: ## go test on every package
	@$(ENV) && set -x && go test ./...

.PHONY: race
race: ## go test with the race detector where goroutines share memory
	@$(ENV) && set -x && go test -race $(RACE_PKGS) && go test -race -run '$(RACE_ACCELERATE)' ./runner/accelerate

.PHONY: fuzz-short
fuzz-short: ## every fuzz target for FUZZ_INPUTS inputs
	@$(ENV) && scripts/fuzz.sh $(FUZZ_INPUTS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZ_TIME
	@$(ENV) && scripts/fuzz.sh $(FUZZ_TIME)

.PHONY: bench
bench: ## Go benchmarks of every package
	@$(ENV) && go test -run '^$$' -bench . -benchmem ./...

.PHONY: bench-build
bench-build: build ## time and memory of building the 0.6B shape, in one step and in three
	@$(ENV) && scripts/bench/build.sh

.PHONY: bench-optimize
bench-optimize: ## time and memory of the optimiser on the 0.6B and the 32B shape
	@scripts/bench/optimize.sh

.PHONY: bench-overhead
bench-overhead: bench-build ## time that the runner adds to ONNX Runtime's own
	@$(ENV) && bin/qwenrt bench build/bench/int4 --overhead -t 1,2

.PHONY: gate
gate: build ## compare the carried model's costs and accuracy with .ci/baseline.json
	@$(ENV) && bin/qwenrt build models/tiny/qwen3-tiny -o build/gate/int4 --force >/dev/null 2>&1 && \
	bin/qwenrt build models/tiny/qwen3-tiny -o build/gate/fp32 --precision none --force >/dev/null 2>&1 && \
	bin/qwenrt bench gate build/gate/int4 --baseline .ci/baseline.json -t 2 --metric nodes,kernels,traffic,bytes,allocs,ppl,kld,top1 \
		--text models/testdata/reference/eval.txt --reference build/gate/fp32 --ctx 64 --chunks 16 $(GATE)

.PHONY: gate-proof
gate-proof: build ## prove that bench gate catches what it must, and nothing else
	@$(ENV) && scripts/gateproof.sh

.PHONY: fmt
fmt: ## check that every file is as gofmt writes it
	@files=$$(gofmt -l .); if [[ -n $$files ]]; then printf 'run gofmt -w on:\n%s\n' "$$files"; exit 1; fi

.PHONY: vet
vet: ## go vet
	@$(ENV) && set -x && go vet ./...

.PHONY: lint
lint: ## staticcheck, at the version in scripts/tools.mod
	@$(ENV) && set -x && go tool -modfile=scripts/tools.mod staticcheck ./...

.PHONY: native
native: ## install ONNX Runtime and libtokenizers.a
	@go run ./scripts/native install && go run ./scripts/native status

.PHONY: release
release: ## an archive for this platform that runs where it is unpacked
	@$(ENV) && go run ./scripts/release

.PHONY: clean
clean: ## delete what was built here; native libraries stay in the user's cache
	rm -rf bin build
