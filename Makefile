# Everything is built from pinned Go modules; nothing else has to be on the machine but
# Go, gcc, git and make.
GO ?= go
BIN := bin/krtpkg

.PHONY: all build install demo test lint bench clean

all: build

build: $(BIN)

.PHONY: $(BIN)
$(BIN):
	$(GO) build -trimpath -buildvcs=false -ldflags "-s -w" -o $@ ./cmd/krtpkg

install:
	$(GO) install ./cmd/krtpkg

# The main job from end to end, on embedded defaults.
demo: build
	$(GO) run ./hack/demo -krtpkg $(BIN)

# Two packages at a time: each starts registries or a cluster of its own.
test:
	$(GO) test -p 2 -timeout 30m ./...

lint:
	$(GO) run ./hack/lint

bench: build
	$(GO) run ./hack/bench -krtpkg $(BIN)

clean:
	rm -rf bin dist
