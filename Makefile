# Everything is built from pinned Go modules; nothing else has to be on the machine but
# Go, gcc, git and make; the tests of pages also open them in Chromium.
GO ?= go
BIN := bin/krtpkg

# Without kustomize's plugins in Go, which krtpkg never loads. With cgo the linker keeps every exported method for them:
# 141 MB instead of 101, and twice the time to link. Releases are built without cgo.
TAGS := kustomize_disable_go_plugin_support
# Tests need no debugger's tables. Nor do they need go test's own vet, which runs eleven of vet's checks: make lint, which CI runs
# first, has all checks on the same packages with their tests.
TESTFLAGS := -tags "$(TAGS)" -ldflags "-s -w" -vet=off

.PHONY: all build install demo test quick processes tools fuzz recall lint crosscheck names bench docs release image clean $(BIN)

all: build

build: $(BIN)

$(BIN):
	$(GO) build -trimpath -buildvcs=auto -tags "$(TAGS)" -ldflags "-s -w" -o $@ ./cmd/krtpkg

install:
	$(GO) install -tags "$(TAGS)" ./cmd/krtpkg

# The main job from end to end, on embedded defaults.
demo: build
	$(GO) run ./hack/demo -krtpkg $(BIN)

# Real registries, real clients and a real control plane: the first run on a machine
# compiles them.
test: tools
	./hack/testdir.sh $(GO) test $(TESTFLAGS) -p 2 -timeout 60m ./...

# What needs no Kubernetes and no program but krtpkg: for every change. Tests wait now and then, so that more packages at a time than
# two processors are faster.
quick:
	./hack/testdir.sh $(GO) test $(TESTFLAGS) -p 4 -short ./...

# The scripts whose commands share a process, each of them in one of its own.
processes:
	./hack/testdir.sh $(GO) test $(TESTFLAGS) -short -run '^TestScripts$$' ./internal/cli -processes

tools:
	./hack/browser/install.sh
	$(GO) run ./hack/prebuild

# Each fuzz target for a while, beside its seeds, which run with the tests.
FUZZTIME ?= 30s
fuzz:
	$(GO) run ./hack/fuzz -tags "$(TAGS)" -time "$(FUZZTIME)"

# How many of the images in real products' manifests are found, and what is found that is none.
recall:
	$(GO) test -count=1 -v -run '^TestCorpus(Finds|Has|Locks|Of|Recall|Relocates)' ./pkg/images ./pkg/assemble

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt would change these"; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	CGO_ENABLED=1 $(GO) vet -tags pkcs11key ./pkg/sign
	$$($(GO) run ./hack/prebuild tools/staticcheck) -tags "$(TAGS)" ./...

# That all packages and their tests compile for the other systems of a release.
crosscheck:
	$(GO) run ./hack/crosscheck

# How much the names of functions say, per package and next to other codebases.
names:
	$(GO) run ./hack/names

bench: build
	$(GO) run ./hack/bench -krtpkg $(BIN)

# The reference of all commands in docs/cli, and manual pages in dist/man.
docs:
	$(GO) run ./hack/docs

# Programs, checksums, a bill of materials and an image for all platforms, in dist/release. With
# KEY=cosign.key the image is signed. The same commit gives the same bytes.
release:
	$(GO) run ./hack/release -version "$(VERSION)" -key "$(KEY)"

# krtpkg's own image for Linux alone, in dist/image/image, as an OCI layout: copy it with crane, oras or skopeo.
image:
	$(GO) run ./hack/release -version "$(VERSION)" -key "$(KEY)" -platforms linux/amd64,linux/arm64 -out dist/image

clean:
	rm -rf bin dist
