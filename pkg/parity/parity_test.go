package parity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/parity"
)

// memoryFile is a file in memory. Reads of what overlaps with unreadable fail.
type memoryFile struct {
	data       []byte
	unreadable []parity.Range
}

func (f *memoryFile) ReadAt(p []byte, offset int64) (int, error) {
	for _, part := range f.unreadable {
		if part.Offset < offset+int64(len(p)) && offset < part.End() {
			return 0, errors.New("input/output error")
		}
	}
	return bytes.NewReader(f.data).ReadAt(p, offset)
}

func (f *memoryFile) WriteAt(p []byte, offset int64) (int, error) {
	if need := int(offset) + len(p) - len(f.data); need > 0 {
		f.data = append(f.data, make([]byte, need)...)
	}
	return copy(f.data[offset:], p), nil
}

func (f *memoryFile) zero(offset, length int64) { clear(f.data[offset : offset+length]) }

// protect returns a file of random content with parity, the geometry in its first sector.
func protect(t testing.TB, size int64, percent int) (*memoryFile, parity.Geometry) {
	t.Helper()
	g, err := parity.NewGeometry(size, percent)
	if err != nil {
		t.Fatal(err)
	}
	f := &memoryFile{data: make([]byte, size, g.End())}
	content := rand.NewChaCha8([32]byte{1})
	_, _ = content.Read(f.data) // it never fails
	copy(f.data, g.Sector())
	if err := parity.Write(t.Context(), f, g, nil); err != nil {
		t.Fatal(err)
	}
	if int64(len(f.data)) != g.End() {
		t.Fatalf("%d bytes, want %d", len(f.data), g.End())
	}
	return f, g
}

// openAny opens a file, wherever in it something tells of its parity.
func openAny(ctx context.Context, f *memoryFile) (*parity.Reader, error) {
	r, err := parity.Open(f, int64(len(f.data)), 0)
	if errors.Is(err, parity.ErrNotFound) {
		return parity.Search(ctx, f, int64(len(f.data)), 0)
	}
	return r, err
}

// What heals with 10 % of parity, and what does not.
func TestHealing(t *testing.T) {
	const size, sector = 48<<20 + 1000, parity.SectorSize
	large, g := protect(t, size, 10)
	// Single bytes are looked for column by column, which takes a second for each 10 MB.
	small, smallGeometry := protect(t, size/8, 10)
	end := g.End()
	someSectors := func(f *memoryFile, from, to int64, percent float64, damage func(offset int64)) {
		random := rand.New(rand.NewPCG(7, 11))
		for offset := from; offset+sector <= to; offset += sector {
			if random.Float64()*100 < percent {
				damage(offset)
			}
		}
	}
	someBytes := func(f *memoryFile, percent float64, change func(byte) byte) {
		random := rand.New(rand.NewPCG(3, 5))
		for i := range f.data {
			if random.Float64()*100 < percent {
				f.data[i] = change(f.data[i])
			}
		}
	}
	for _, c := range []struct {
		name   string
		damage func(f *memoryFile)
		// lost is how much is lost at least, and at most twice.
		lost int64
	}{
		{"nothing", func(*memoryFile) {}, 0},
		{"1 % of all sectors zeroed, at random", func(f *memoryFile) {
			someSectors(f, 0, end, 1, func(offset int64) { f.zero(offset, sector) })
		}, 0},
		{"1 % of all sectors cannot be read", func(f *memoryFile) {
			someSectors(f, 0, end, 1, func(offset int64) { f.unreadable = append(f.unreadable, parity.Range{Offset: offset, Length: sector}) })
		}, 0},
		{"1 % of all bytes zeroed, each by itself", func(f *memoryFile) { someBytes(f, 1, func(byte) byte { return 0 }) }, 0},
		{"1 % of all bytes flipped", func(f *memoryFile) { someBytes(f, 1, func(b byte) byte { return ^b }) }, 0},
		{"a hole of 4 MB", func(f *memoryFile) { f.zero(20<<20+77, 4<<20) }, 0},
		{"a hole of 4 MB that cannot be read", func(f *memoryFile) { f.unreadable = []parity.Range{{Offset: 20 << 20, Length: 4 << 20}} }, 0},
		{"a scratch: 40 holes of 100 KB", func(f *memoryFile) {
			for i := range int64(40) {
				f.zero(i*1<<20+4096*i, 100<<10)
			}
		}, 0},
		{"the first MB and the last destroyed", func(f *memoryFile) { f.zero(0, 1<<20); f.zero(end-1<<20, 1<<20) }, 0},
		{"only the middle copy of the geometry left", func(f *memoryFile) { f.zero(0, sector); f.zero(end-sector, sector) }, 0},
		{"4 MB of the parity destroyed", func(f *memoryFile) { f.zero(size+3*sector, 4<<20) }, 0},
		{"the whole first half of the checksums destroyed", func(f *memoryFile) { f.zero(size, 2*sector+110<<10) }, 0},
		{"truncated by 2 MB", func(f *memoryFile) { f.data = f.data[:end-2<<20] }, 0},
		{"a hole of 8 MB", func(f *memoryFile) { f.zero(10<<20, 8<<20) }, 8 << 20},
		{"all parity destroyed, and a sector", func(f *memoryFile) { f.zero(size+2*sector, end-size-4*sector); f.zero(1<<20, sector) }, 0},
		{"30 % of all sectors zeroed, at random", func(f *memoryFile) {
			someSectors(f, 0, size, 30, func(offset int64) { f.zero(offset, sector) })
		}, 14 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, g := large, g
			if strings.Contains(c.name, "of all bytes") {
				whole, g = small, smallGeometry
			}
			damaged := &memoryFile{data: slices.Clone(whole.data)}
			c.damage(damaged)
			r, err := openAny(t.Context(), damaged)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			found, err := r.Survey(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			lost := parity.CountBytes(found.Lost)
			t.Logf("damaged: %d bytes of content in %d places, %d of parity; lost: %d", parity.CountBytes(found.Content), len(found.Content), found.Parity, lost)
			if lost < c.lost || lost > 2*c.lost {
				t.Errorf("%d bytes lost, want %d", lost, c.lost)
			}
			if (len(found.Unknown) > 0) != strings.HasPrefix(c.name, "all parity") {
				t.Errorf("nothing is known of %v", found.Unknown)
			}
			if found.IsNone() != (c.name == "nothing") {
				t.Errorf("found %+v", found)
			}
			if lost > 0 {
				return
			}
			healed := &memoryFile{data: make([]byte, g.Size)}
			if _, err := io.ReadFull(io.NewSectionReader(r, 0, g.Size), healed.data); err != nil {
				t.Fatal(err)
			}
			if c.name == "all parity destroyed, and a sector" {
				if bytes.Equal(healed.data, whole.data[:g.Size]) {
					t.Error("healed, from nothing")
				}
				return
			}
			if err := parity.Write(t.Context(), healed, g, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(healed.data, whole.data) {
				t.Error("what was healed differs")
			}
		})
	}
}

// Small and odd sizes have parity too, and lose no byte to a bad sector.
func TestHealingOfSmallFiles(t *testing.T) {
	for _, size := range []int64{64, 511, 512, 513, 5000, 100_000, 118_272, 118_273, 3 << 20, 8<<20 + 1} {
		for _, percent := range []int{1, 10, 37, 100} {
			whole, g := protect(t, max(size, parity.SectorSize), percent)
			if g.Data+g.Parity > 255 || g.Parity*100 < g.Data*percent {
				t.Errorf("%d bytes, %d %%: %+v", size, percent, g)
			}
			damaged := &memoryFile{data: slices.Clone(whole.data)}
			at := g.Size / 2 / parity.SectorSize * parity.SectorSize
			damaged.zero(at, min(parity.SectorSize, g.Size-at))
			r, err := openAny(t.Context(), damaged)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, g.Size)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, whole.data[:g.Size]) {
				t.Errorf("%d bytes, %d %%, %+v: not healed: %v", size, percent, g, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// The format: the same bytes from each version on.
func TestFormat(t *testing.T) {
	whole, g := protect(t, 1<<20+17, 10)
	if want := (parity.Geometry{Size: 1<<20 + 17, Block: 512, Data: 228, Parity: 23, Percent: 10}); g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
	if got, want := fmt.Sprintf("%x", sha256.Sum256(whole.data)), "619292b13c461064fb8d30be730d0d339841547af5e5e48ebf75deaeef8edbf3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Numbers from outside are bounded, and a file that lies is an error or has no parity.
func TestHostileGeometry(t *testing.T) {
	for _, g := range []parity.Geometry{
		{Size: 1 << 62, Block: 2048, Data: 200, Parity: 20, Percent: 10}, {Size: 1 << 41, Block: 512, Data: 200, Parity: 20, Percent: 10},
		{Size: 4096, Block: 0, Data: 200, Parity: 20, Percent: 10}, {Size: 4096, Block: 3000, Data: 200, Parity: 20, Percent: 10},
		{Size: 4096, Block: 1 << 30, Data: 200, Parity: 20, Percent: 10}, {Size: 4096, Block: 512, Data: 0, Parity: 20, Percent: 10},
		{Size: 4096, Block: 512, Data: 200, Parity: 0, Percent: 10}, {Size: 4096, Block: 512, Data: 200, Parity: 200, Percent: 10},
		{Size: 4096, Block: 512, Data: 200, Parity: 20, Percent: 0}, {Size: 0, Block: 512, Data: 200, Parity: 20, Percent: 10},
		{Size: -5, Block: 512, Data: 200, Parity: 20, Percent: 10},
		// Small, but with stripes of 255 MiB.
		{Size: 4096, Block: 1 << 20, Data: 128, Parity: 127, Percent: 100},
	} {
		f := &memoryFile{data: append(g.Sector(), make([]byte, 64<<10)...)}
		if _, err := openAny(t.Context(), f); !errors.Is(err, parity.ErrNotFound) {
			t.Errorf("%+v: %v", g, err)
		}
	}
	// One that fits nowhere in the file.
	big, err := parity.NewGeometry(1<<40, 10)
	if err != nil {
		t.Fatal(err)
	}
	f := &memoryFile{data: append(big.Sector(), make([]byte, 64<<10)...)}
	if _, err := openAny(t.Context(), f); err == nil || errors.Is(err, parity.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	// A file with parity inside of another one is content.
	inner, _ := protect(t, 100_000, 10)
	f = &memoryFile{data: append(make([]byte, 3*parity.SectorSize), inner.data...)}
	if r, err := openAny(t.Context(), f); !errors.Is(err, parity.ErrNotFound) {
		t.Errorf("got %v, %v", r, err)
	}
	g, err := parity.NewGeometry(100_000, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parity.NewGeometry(0, 10); err == nil {
		t.Error("parity of nothing")
	}
	if _, err := parity.NewGeometry(100, 101); err == nil {
		t.Error("more than 100 %")
	}
	if _, err := parity.ParseSector(g.Sector()); err != nil {
		t.Error(err)
	}
}

// A table that lies changes nothing: what it calls wrong is restored to what was there, which is not what it says either.
func TestLyingTable(t *testing.T) {
	whole, g := protect(t, 100_000, 10)
	lying := &memoryFile{data: slices.Clone(whole.data)}
	at := (g.Size+parity.SectorSize-1)/parity.SectorSize*parity.SectorSize + parity.SectorSize
	table := lying.data[at : at+512]
	binary.BigEndian.PutUint32(table[4*3:], 0x1234)
	binary.BigEndian.PutUint32(table[508:], crc32.Checksum(table[:508], crc32.MakeTable(crc32.Castagnoli)))
	r, err := openAny(t.Context(), lying)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	found, err := r.Survey(t.Context(), nil)
	if want := []parity.Range{{Offset: 3 * 512, Length: 512}}; err != nil || !slices.Equal(found.Lost, want) {
		t.Errorf("got %+v, %v", found, err)
	}
	got := make([]byte, g.Size)
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, whole.data[:g.Size]) {
		t.Errorf("changed: %v", err)
	}
	if _, err := r.Strict().ReadAt(got[:10], 3*512); !errors.Is(err, parity.ErrLost) {
		t.Errorf("got %v", err)
	}
}

// countdown is a context that ends after so many questions whether it did.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Healing that broke off is gone on with, and gives the same.
func TestHealingGoesOn(t *testing.T) {
	whole, g := protect(t, 1<<20, 10)
	damaged := &memoryFile{data: slices.Clone(whole.data)}
	for at := int64(0); at < g.Size; at += 50_000 {
		damaged.zero(at, 700)
	}
	r, err := openAny(t.Context(), damaged)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stopped := 0
	for left := 5; left < 20; left++ {
		if _, err := r.Survey(&countdown{t.Context(), left}, nil); errors.Is(err, context.Canceled) && r.HealedBytes() > 0 {
			stopped++
		}
	}
	got := make([]byte, g.Size)
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, whole.data[:g.Size]) || stopped == 0 {
		t.Errorf("stopped %d times, then healed to other bytes, error %v", stopped, err)
	}
}

// Whole files are restored from the others, and parts of files that cannot heal themselves.
func TestSet(t *testing.T) {
	const count = 10
	set := parity.Set{Parity: 2}
	var files []*memoryFile
	var readers []io.ReaderAt
	for i := range int64(count) {
		size := 200_000 + i*1000 - i/9*150_000 // the last is short
		f, _ := protect(t, size, 10)
		for at := range f.data[parity.SectorSize:size] {
			f.data[parity.SectorSize+at] ^= byte(i)
		}
		g, err := parity.NewGeometry(size, 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := parity.Write(t.Context(), f, g, nil); err != nil {
			t.Fatal(err)
		}
		set.Sizes, files, readers = append(set.Sizes, size), append(files, f), append(readers, f)
	}
	shards := []*memoryFile{{}, {}}
	if err := parity.WriteSet(t.Context(), set, readers, []io.WriterAt{shards[0], shards[1]}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		gone []int // from 10 on parity
		want error
	}{
		{[]int{3}, nil}, {[]int{9}, nil}, {[]int{0, 9}, nil}, {[]int{4, 10}, nil}, {[]int{4, 10, 11}, parity.ErrLost}, {[]int{1, 2, 3}, parity.ErrLost},
	} {
		there := slices.Concat(readers, []io.ReaderAt{shards[0], shards[1]})
		for _, i := range c.gone {
			there[i] = nil
		}
		r, err := parity.OpenSet(set, there[:count], there[count:])
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range c.gone {
			if i >= count {
				continue
			}
			got, err := io.ReadAll(io.NewSectionReader(r.File(i), 0, set.Sizes[i]))
			if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, files[i].data[:set.Sizes[i]]) {
				t.Errorf("without %v: file %d differs: %v", c.gone, i, err)
			}
		}
	}
	// Two files that are damaged too much, at different places, and a third at the same: each is read from the others.
	for _, c := range []struct {
		third int64
		lost  bool
	}{{150_000, false}, {20_000, true}} {
		damaged := make([]*memoryFile, count)
		strict := make([]io.ReaderAt, count)
		opened := make([]*parity.Reader, count)
		for i, f := range files {
			damaged[i] = &memoryFile{data: slices.Clone(f.data)}
			switch i {
			case 2, 5:
				damaged[i].zero(10_000, 60_000)
			case 7:
				damaged[i].zero(c.third, 50_000)
			}
			var err error
			if opened[i], err = openAny(t.Context(), damaged[i]); err != nil {
				t.Fatal(err)
			}
			defer opened[i].Close()
			strict[i] = opened[i].Strict()
		}
		r, err := parity.OpenSet(set, strict, []io.ReaderAt{shards[0], shards[1]})
		if err != nil {
			t.Fatal(err)
		}
		opened[2].Fallback = r.File(2)
		found, err := opened[2].Survey(t.Context(), nil)
		if err != nil || (len(found.Lost) > 0) != c.lost {
			t.Errorf("third at %d: %+v, %v", c.third, found, err)
		}
		got := make([]byte, set.Sizes[2])
		if _, err := opened[2].ReadAt(got, 0); err != nil || bytes.Equal(got, files[2].data[:set.Sizes[2]]) == c.lost {
			t.Errorf("third at %d: %v", c.third, err)
		}
	}
	// One whose second half is zeros, and its checksums with it: nothing of it may be taken for right unseen.
	torn := &memoryFile{data: slices.Clone(files[1].data)}
	torn.zero(100_000, int64(len(torn.data))-100_000)
	opened, err := openAny(t.Context(), torn)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	there := slices.Clone(readers)
	there[0], there[1] = nil, opened.Strict()
	r, err := parity.OpenSet(set, there, []io.ReaderAt{shards[0], shards[1]})
	if err != nil {
		t.Fatal(err)
	}
	opened.Fallback = r.File(1)
	for i, file := range map[int]io.ReaderAt{0: r.File(0), 1: opened} {
		got := make([]byte, set.Sizes[i])
		if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, files[i].data[:set.Sizes[i]]) {
			t.Errorf("file %d differs: %v", i, err)
		}
	}
	if found, err := opened.Survey(t.Context(), nil); err != nil || len(found.Lost) > 0 || len(found.Unknown) > 0 || parity.CountBytes(found.Content) < 90_000 {
		t.Errorf("got %+v, %v", found, err)
	}
	for _, bad := range []parity.Set{{}, {Sizes: []int64{1}}, {Sizes: []int64{0}, Parity: 1}, {Sizes: []int64{1 << 60}, Parity: 1}, {Sizes: make([]int64, 255), Parity: 1}} {
		if _, err := parity.OpenSet(bad, nil, nil); err == nil {
			t.Errorf("%+v is possible", bad)
		}
	}
}

// Whatever stands in a file, reading it ends, and what is intact is read as it is.
func FuzzReader(f *testing.F) {
	whole, g := protect(f, 3000, 10)
	f.Add(whole.data, 0, byte(0))
	f.Add(whole.data, 2100, byte(1))
	f.Add(whole.data, int(g.Size)+2100, byte(255))
	f.Add(g.Sector(), 3, byte(9))
	f.Fuzz(func(t *testing.T, data []byte, at int, by byte) {
		if len(data) > 1<<20 {
			return
		}
		changed := &memoryFile{data: slices.Clone(data)}
		if len(data) > 0 {
			changed.data[uint(at)%uint(len(data))] ^= by
		}
		r, err := openAny(t.Context(), changed)
		if err != nil {
			return
		}
		defer r.Close()
		if r.Geometry.Size > 1<<20 {
			return
		}
		if _, err := r.Survey(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, r.Size())
		if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if bytes.Equal(data, whole.data) && !bytes.Equal(got[:g.Size], data[:g.Size]) {
			t.Error("a single byte is not healed")
		}
	})
}
