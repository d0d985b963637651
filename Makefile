# Everything is built from pinned Go modules; nothing else has to be on the machine but
# Go, gcc, git and make.
GO ?= go
BIN := bin/krtpkg

.PHONY: all build install demo test tools lint bench clean $(BIN)

all: build

build: $(BIN)

$(BIN):
	$(GO) build -trimpath -buildvcs=false -ldflags "-s -w" -o $@ ./cmd/krtpkg

install:
	$(GO) install ./cmd/krtpkg

# The main job from end to end, on embedded defaults.
demo: build
	$(GO) run ./hack/demo -krtpkg $(BIN)

# Real registries, real clients and a real control plane: the first run on a machine
# compiles them.
test: tools
	$(GO) test -p 2 -timeout 30m ./...

tools:
	$(GO) run ./hack/prebuild

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt would change these"; exit 1; }
	$(GO) vet ./...
	$$($(GO) run ./hack/prebuild tools/staticcheck) ./...

bench: build
	$(GO) run ./hack/bench -krtpkg $(BIN)

clean:
	rm -rf bin dist
