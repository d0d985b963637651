package delta

import (
	"bufio"
	"bytes"
	stdflate "compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Encoder is a way to compress a tar. Which bytes an encoder gives depends on its code:
// TestEncodersGiveTheSameBytes holds what this build gives.
type Encoder struct {
	// Name is "go" for compress/flate of Go (docker, containerd, buildkit, ko, crane, kaniko),
	// "klauspost" for github.com/klauspost/compress, "pgzip" for its blocks of
	// github.com/klauspost/pgzip (buildah, podman), "zlib" for that library (jib, bazel, Python), "gnu" for
	// GNU gzip, "zstd" for github.com/klauspost/compress/zstd (containerd, buildkit, buildah), and "none" for a
	// tar as it is.
	Name string `json:"name"`
	// Level is the encoder's, -2 for Huffman codes alone; of zstd 1 to 4, fastest to best.
	Level int `json:"level,omitempty"`
	// Block is the size of the blocks of pgzip.
	Block int `json:"block,omitempty"`
}

// String returns it as "go -6".
func (e Encoder) String() string {
	switch {
	case e.Name == encoderNone:
		return "uncompressed"
	case e.Block > 0:
		return fmt.Sprintf("%s -%d, blocks of %d KiB", e.Name, e.Level, e.Block>>10)
	case e.Level == stdflate.HuffmanOnly:
		return e.Name + " huffman"
	}
	return fmt.Sprintf("%s -%d", e.Name, e.Level)
}

const (
	encoderNone      = "none"
	encoderGo        = "go"
	encoderKlauspost = "klauspost"
	encoderPgzip     = "pgzip"
	encoderZlib      = "zlib"
	encoderGNU       = "gnu"
	encoderZstd      = "zstd"
)

// zstdCandidates returns the encoders of zstd, the frequent ones first.
func zstdCandidates() (all []Encoder) {
	for _, level := range []zstd.EncoderLevel{zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression, zstd.SpeedFastest} {
		all = append(all, Encoder{Name: encoderZstd, Level: int(level)})
	}
	return all
}

// candidates returns all encoders, the frequent ones first.
func candidates() (all []Encoder) {
	add := func(name string, block int, levels ...int) {
		for _, level := range levels {
			all = append(all, Encoder{Name: name, Level: level, Block: block})
		}
	}
	add(encoderGo, 0, 6, 1, 9)
	add(encoderPgzip, 1<<20, 5, 6, 9, 1)
	add(encoderKlauspost, 0, 5, 6, 9, 1)
	add(encoderZlib, 0, 6, 9, 1)
	add(encoderGNU, 0, 6, 9)
	add(encoderGo, 0, 2, 3, 4, 5, 7, 8, stdflate.HuffmanOnly, stdflate.NoCompression)
	add(encoderKlauspost, 0, 2, 3, 4, 7, 8, flate.HuffmanOnly)
	add(encoderPgzip, 1<<20, 2, 3, 4, 7, 8, flate.HuffmanOnly)
	add(encoderZlib, 0, 2, 3, 4, 5, 7, 8)
	add(encoderGNU, 0, 1, 2, 3, 4, 5, 7, 8)
	for _, block := range []int{100_000, 128 << 10, 250_000, 256 << 10, 500_000, 512 << 10, 1_000_000, 2 << 20, 4 << 20} {
		add(encoderPgzip, block, 5, 6, 9, 1)
	}
	return all
}

// checkBuild returns an error if this build does not have the encoder.
func (e Encoder) checkBuild() error {
	switch e.Name {
	case encoderNone:
		return nil
	case encoderGo, encoderKlauspost, encoderPgzip:
		if e.Level < stdflate.HuffmanOnly || e.Level == stdflate.DefaultCompression || e.Level > stdflate.BestCompression {
			return fmt.Errorf("encoder %s has level %d: %w", e.Name, e.Level, ErrDamaged)
		}
		if e.Name == encoderPgzip && (e.Block <= pgzipTail || e.Block > maxPgzipBlock) {
			return fmt.Errorf("encoder %s has blocks of %d bytes: %w", e.Name, e.Block, ErrDamaged)
		}
		return nil
	case encoderZlib, encoderGNU:
		if e.Level < 1 || e.Level >= len(zlibLevels) {
			return fmt.Errorf("encoder %s has level %d: %w", e.Name, e.Level, ErrDamaged)
		}
		return nil
	case encoderZstd:
		if level := zstd.EncoderLevel(e.Level); level < zstd.SpeedFastest || level > zstd.SpeedBestCompression {
			return fmt.Errorf("encoder %s has level %d: %w", e.Name, e.Level, ErrDamaged)
		}
		return nil
	}
	return &VersionError{fmt.Sprintf("encoder %q", e.Name)}
}

// newWriter returns a writer of deflate or zstd; closing it ends the stream.
func (e Encoder) newWriter(w io.Writer) (io.WriteCloser, error) {
	switch e.Name {
	case encoderGo:
		return stdflate.NewWriter(w, e.Level)
	case encoderKlauspost:
		return flate.NewWriter(w, e.Level)
	case encoderZlib, encoderGNU:
		return newZlibWriter(w, e.Level, e.Name == encoderGNU), nil
	case encoderZstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevel(e.Level)), zstd.WithEncoderConcurrency(1))
	case encoderPgzip:
		encoder, err := flate.NewWriterDict(io.Discard, e.Level, nil)
		return &pgzipWriter{w: w, encoder: encoder, block: make([]byte, 0, e.Block)}, err
	}
	return nil, &VersionError{fmt.Sprintf("encoder %q", e.Name)}
}

const (
	// pgzipTail is how much of a block pgzip gives to the next as a dictionary.
	pgzipTail     = 16 << 10
	maxPgzipBlock = 16 << 20
)

// pgzipWriter compresses block by block, as pgzip does at the same time.
type pgzipWriter struct {
	w       io.Writer
	encoder *flate.Writer
	block   []byte
	tail    []byte
}

func (p *pgzipWriter) Write(data []byte) (n int, err error) {
	for n < len(data) {
		part := data[n:min(len(data), n+cap(p.block)-len(p.block))]
		p.block = append(p.block, part...)
		n += len(part)
		if len(p.block) == cap(p.block) {
			if err := p.endBlock(false); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (p *pgzipWriter) endBlock(last bool) error {
	p.encoder.ResetDict(p.w, p.tail)
	if _, err := p.encoder.Write(p.block); err != nil {
		return err
	}
	if err := p.encoder.Flush(); err != nil {
		return err
	}
	if last {
		return p.encoder.Close()
	}
	p.tail = nil
	if len(p.block) > pgzipTail {
		p.tail = bytes.Clone(p.block[len(p.block)-pgzipTail:])
	}
	p.block = p.block[:0]
	return nil
}

func (p *pgzipWriter) Close() error { return p.endBlock(true) }

// undoneLayer is a layer as a tar, with what it takes to compress it again.
type undoneLayer struct {
	tar        *Scratch
	encoder    Encoder
	gzipHeader []byte
}

// undoCompression returns the tar of a layer and the encoder that gives the layer again.
func undoCompression(ctx context.Context, packed *Scratch, o Options) (_ *undoneLayer, err error) {
	magic := make([]byte, len(zstdMagic))
	if n, err := packed.ReadAt(magic, 0); err != nil && err != io.EOF {
		return nil, err
	} else {
		magic = magic[:n]
	}
	tar, err := NewScratch(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tar.Close())
		}
	}()
	if !bytes.HasPrefix(magic, gzipMagic) && !bytes.Equal(magic, zstdMagic) {
		_, err := io.Copy(tar, contextReader{ctx, packed.section(0, packed.size)})
		return &undoneLayer{tar: tar, encoder: Encoder{Name: encoderNone}}, err
	}
	var header []byte
	encoders := zstdCandidates()
	if bytes.Equal(magic, zstdMagic) {
		in := contextReader{ctx, packed.section(0, packed.size)}
		if err := decompress(tar, in, allowedTarSize(packed.size)); err != nil {
			return nil, unpackError(ctx, err)
		}
	} else {
		encoders = candidates()
		if header, err = readGzipHeader(packed.section(0, packed.size)); err != nil {
			return nil, err
		}
		if err := inflate(ctx, tar, packed, int64(len(header))); err != nil {
			return nil, err
		}
	}
	clock := startClock(packed.size, o)
	for _, encoder := range encoders {
		same, err := givesAgain(ctx, clock, encoder, tar, packed, int64(len(header)))
		if err != nil {
			return nil, err
		}
		if same {
			return &undoneLayer{tar: tar, encoder: encoder, gzipHeader: header}, nil
		}
	}
	return nil, ErrEncoder
}

// maxGzipHeader is how long the header of a gzip stream may be.
const maxGzipHeader = 4 << 10

// readGzipHeader returns the header of a gzip stream (RFC 1952, 2.3) as it is.
func readGzipHeader(r io.Reader) ([]byte, error) {
	in := bufio.NewReader(io.LimitReader(r, maxGzipHeader))
	var header []byte
	take := func(n int) []byte {
		for range n {
			b, err := in.ReadByte()
			if err != nil {
				return nil
			}
			header = append(header, b)
		}
		return header[len(header)-n:]
	}
	takeString := func() bool {
		for {
			b := take(1)
			if b == nil || b[0] == 0 {
				return b != nil
			}
		}
	}
	fixed := take(10)
	if fixed == nil || fixed[2] != 8 {
		return nil, ErrEncoder
	}
	flags := fixed[3]
	ok := true
	if flags&4 != 0 {
		size := take(2)
		ok = size != nil && take(int(binary.LittleEndian.Uint16(size))) != nil
	}
	if ok && flags&8 != 0 {
		ok = takeString()
	}
	if ok && flags&16 != 0 {
		ok = takeString()
	}
	if ok && flags&2 != 0 {
		ok = take(2) != nil
	}
	if !ok {
		return nil, ErrEncoder
	}
	return header, nil
}

// gzipTrailer is the size of checksum and length at the end of a gzip stream.
const gzipTrailer = 8

// inflate writes what a gzip stream has as its only member.
func inflate(ctx context.Context, w io.Writer, packed *Scratch, from int64) error {
	in := bufio.NewReaderSize(contextReader{ctx, packed.section(from, packed.size-from)}, 1<<16)
	unpacked := flate.NewReader(in)
	defer unpacked.Close()
	limit := allowedTarSize(packed.size)
	n, err := io.Copy(w, io.LimitReader(unpacked, limit+1))
	if err == nil && n > limit {
		err = unpackError(ctx, &tarSizeError{limit})
	}
	if err != nil {
		return err
	}
	rest, err := io.Copy(io.Discard, in)
	if err == nil && rest != gzipTrailer {
		err = ErrEncoder // several members, or something after the end
	}
	return err
}

// givesAgain reports whether an encoder compresses a tar to the bytes of a stream from a place on.
func givesAgain(ctx context.Context, clock *workClock, encoder Encoder, tar, packed *Scratch, from int64) (bool, error) {
	same := &comparingWriter{want: bufio.NewReaderSize(packed.section(from, packed.size-from), 1<<16)}
	err := clock.checkTime()
	if err == nil {
		err = compressTo(ctx, same, encoder, &workingReader{workClock: clock, r: tar.section(0, tar.size)})
	}
	if err == nil {
		_, err = same.want.ReadByte()
		if err == io.EOF {
			return true, nil
		}
	}
	if err == nil || errors.Is(err, errOtherBytes) {
		return false, ctx.Err()
	}
	return false, err
}

// compressTo writes a deflate stream and the trailer of gzip, or a stream of zstd.
func compressTo(ctx context.Context, w io.Writer, encoder Encoder, tar io.Reader) error {
	out, err := encoder.newWriter(w)
	if err != nil {
		return err
	}
	sum := crc32.NewIEEE()
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.TeeReader(contextReader{ctx, tar}, sum), make([]byte, 1<<16))
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil || encoder.Name == encoderZstd {
		return err
	}
	trailer := binary.LittleEndian.AppendUint32(nil, sum.Sum32())
	_, err = w.Write(binary.LittleEndian.AppendUint32(trailer, uint32(n)))
	return err
}

var errOtherBytes = errors.New("other bytes")

// comparingWriter fails at the first byte that is not the wanted one.
type comparingWriter struct {
	want *bufio.Reader
	buf  [4 << 10]byte
}

func (c *comparingWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := c.buf[:min(len(p)-n, len(c.buf))]
		if _, err := io.ReadFull(c.want, part); err == io.EOF || err == io.ErrUnexpectedEOF {
			return n, errOtherBytes
		} else if err != nil {
			return n, err
		}
		if !bytes.Equal(part, p[n:n+len(part)]) {
			return n, errOtherBytes
		}
		n += len(part)
	}
	return n, nil
}
