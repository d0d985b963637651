package delta_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/delta"
)

// packExample returns a layer with one file, compressed as docker and containerd do it.
func packExample(content []byte) delta.Layer {
	var layer bytes.Buffer
	compressed := gzip.NewWriter(&layer)
	files := tar.NewWriter(compressed)
	err := files.WriteHeader(&tar.Header{Name: "usr/bin/agent", Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = files.Write(content)
	}
	if err = errors.Join(err, files.Close(), compressed.Close()); err != nil {
		log.Fatal(err)
	}
	data := layer.Bytes()
	return delta.Layer{Digest: digest.FromBytes(data), Size: int64(len(data)), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// The connected side makes a delta of a layer, and a site makes the same layer of it and of the one that it has.
func Example() {
	ctx := context.Background()
	program := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(program)
	before := packExample(program)
	after := packExample(append([]byte("a line at its beginning\n"), program...))

	var difference bytes.Buffer
	if _, err := delta.Make(ctx, &difference, after, []delta.Layer{before}, delta.Options{}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("smaller than 1 % of the layer:", int64(difference.Len()) < after.Size/100)

	opened, err := delta.Open(&difference)
	if err != nil {
		log.Fatal(err)
	}
	open := func(ctx context.Context, _ delta.Base) (io.ReadCloser, error) { return before.Open(ctx) }
	layer, err := opened.Apply(ctx, after.Digest, after.Size, open, delta.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	made, err := digest.FromReader(layer)
	fmt.Println("the same digest:", made == after.Digest, err)
	// Output:
	// smaller than 1 % of the layer: true
	// the same digest: true <nil>
}
