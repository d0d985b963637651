package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"krtpkg.dev/krtpkg/pkg/delta"
)

// layerEncoder compresses a tar to a layer: a program, or a step of this one.
type layerEncoder struct {
	name, users string
	program     string
	args        []string
}

// layerEncoders are those of the tools that build images. Programs that are not there are left out.
func (c *deltaBench) layerEncoders() []layerEncoder {
	const zlib = "import sys,zlib;z=zlib.compressobj(int(sys.argv[1]),zlib.DEFLATED,31);f=open(sys.argv[2],'rb')\nfor b in iter(lambda:f.read(1<<16),b''):sys.stdout.buffer.write(z.compress(b))\nsys.stdout.buffer.write(z.flush())"
	return []layerEncoder{
		{"Go's gzip -6", "docker, containerd, buildkit", c.self, []string{"-delta", "gzip"}},
		{"Go's gzip -1", "crane, ko", c.self, []string{"-delta", "gzip1"}},
		{"pgzip", "buildah, podman", c.self, []string{"-delta", "pgzip"}},
		{"zlib -6", "jib, bazel, Python", "python3", []string{"-c", zlib, "6"}},
		{"zlib -9", "", "python3", []string{"-c", zlib, "9"}},
		{"GNU gzip -6", "scripts", "gzip", []string{"-nc6"}},
		{"GNU gzip -9", "", "gzip", []string{"-nc9"}},
		{"Go's zstd", "containerd, buildkit", c.self, []string{"-delta", "zstd"}},
		{"pigz -6", "scripts", "pigz", []string{"-nc6"}},
		{"libzstd -3", "scripts", "zstd", []string{"-qc3"}},
	}
}

// maxEncoderLayer is the size of the tars up to which all encoders are measured.
const maxEncoderLayer = 25 << 20

// measureEncoders measures deltas between layers of each encoder: whether it is found, and how much a delta has then.
func (c *deltaBench) measureEncoders(ctx context.Context, all []release) error {
	fmt.Println("\n| layers by | of | layers | made again | median | from | to |\n|---|---|---|---|---|---|---|")
	for _, e := range c.layerEncoders() {
		if _, err := exec.LookPath(e.program); err != nil {
			continue
		}
		var shares []float64
		layers := 0
		for _, r := range all {
			before, err := c.makeTar(ctx, r, r.before)
			if err != nil {
				return err
			}
			after, err := c.makeTar(ctx, r, r.after)
			if err != nil {
				return err
			}
			if n, err := sizeOf(after); err != nil || n > maxEncoderLayer {
				continue
			}
			layers++
			share, err := c.measureEncoder(ctx, e, before, after)
			if err != nil {
				return fmt.Errorf("%s by %s: %w", r.title(), e.name, err)
			}
			if share > 0 {
				shares = append(shares, share)
			}
		}
		row := fmt.Sprintf("| %s | %s | %d | %d | ", e.name, e.users, layers, len(shares))
		if len(shares) == 0 {
			fmt.Println(row + "| | |")
			continue
		}
		slices.Sort(shares)
		fmt.Printf("%s%.2f %% | %.2f %% | %.2f %% |\n", row, shares[len(shares)/2], shares[0], shares[len(shares)-1])
	}
	return nil
}

// measureEncoder returns the size of a delta in percent of the layer, after the layer was made of it; 0 if the encoder
// is not found.
func (c *deltaBench) measureEncoder(ctx context.Context, e layerEncoder, before, after string) (float64, error) {
	oldLayer, newLayer, out := c.filePath("before.layer"), c.filePath("after.layer"), c.filePath("delta")
	for tar, layer := range map[string]string{before: oldLayer, after: newLayer} {
		if _, err := c.run(ctx, layer, e.program, append(slices.Clone(e.args), tar)...); err != nil {
			return 0, err
		}
	}
	if _, err := c.run(ctx, out, c.self, "-delta", "make", oldLayer, newLayer); err != nil {
		if strings.Contains(err.Error(), delta.ErrEncoder.Error()) {
			return 0, nil
		}
		return 0, err
	}
	if _, err := c.run(ctx, "", c.self, "-delta", "apply", oldLayer, newLayer, out); err != nil {
		return 0, err
	}
	size, err := sizeOf(newLayer)
	if err != nil {
		return 0, err
	}
	n, err := sizeOf(out)
	return 100 * float64(n) / float64(size), err
}

// compressFile writes a file to standard output as an encoder gives it that Go programs link.
func compressFile(encoder, name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var w io.WriteCloser
	switch encoder {
	case "gzip":
		w = gzip.NewWriter(os.Stdout)
	case "gzip1":
		w, err = gzip.NewWriterLevel(os.Stdout, 1)
	case "pgzip":
		w = pgzip.NewWriter(os.Stdout)
	case "zstd":
		w, err = zstd.NewWriter(os.Stdout)
	default:
		err = fmt.Errorf("no encoder %q", encoder)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return errors.Join(err, w.Close())
}

// debianTrees are packages of Debian 12 as a base layer has them, before updates and after; those of debianKept are the
// same in both. Versions are named after libc6's.
var (
	debianTrees = map[string][]string{
		"12u7": {
			"libc6=2.36-9+deb12u7", "libc-bin=2.36-9+deb12u7", "libssl3=3.0.17-1~deb12u2", "openssl=3.0.17-1~deb12u2",
			"perl-base=5.36.0-7+deb12u3", "libsystemd0=252.38-1~deb12u1", "util-linux=2.38.1-5+deb12u1",
			"bsdutils=1:2.38.1-5+deb12u1", "mount=2.38.1-5+deb12u1", "tzdata=2025b-0+deb12u1", "apt=2.6.1",
			"libpam-modules=1.5.2-6+deb12u2", "libexpat1=2.5.0-1+deb12u2", "libxml2=2.9.14+dfsg-1.3~deb12u4", "curl=7.88.1-10+deb12u5",
			"libcurl4=7.88.1-10+deb12u5", "libglib2.0-0=2.74.6-2+deb12u2", "python3.11-minimal=3.11.2-6+deb12u8",
		},
		"12u14": {
			"libc6=2.36-9+deb12u14", "libc-bin=2.36-9+deb12u14", "libssl3=3.0.22-1~deb12u2", "openssl=3.0.22-1~deb12u2",
			"perl-base=5.36.0-7+deb12u4", "libsystemd0=252.39-1~deb12u2", "util-linux=2.38.1-5+deb12u3",
			"bsdutils=1:2.38.1-5+deb12u3", "mount=2.38.1-5+deb12u3", "tzdata=2026f-0+deb12u1", "apt=2.6.2",
			"libpam-modules=1.5.2-6+deb12u3", "libexpat1=2.5.0-1+deb12u5", "libxml2=2.9.14+dfsg-1.3~deb12u6", "curl=7.88.1-10+deb12u15",
			"libcurl4=7.88.1-10+deb12u15", "libglib2.0-0=2.74.6-2+deb12u9", "python3.11-minimal=3.11.2-6+deb12u9",
		},
	}
	debianKept = []string{
		"base-files", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils", "grep", "gzip", "hostname",
		"libstdc++6", "gcc-12-base", "ncurses-base", "ncurses-bin", "login", "passwd", "sed", "tar", "zlib1g", "libgcrypt20", "libtinfo6",
		"libacl1", "libpcre2-8-0", "libselinux1", "liblzma5", "libzstd1", "libbz2-1.0", "ca-certificates",
	}
)

// unpackDebian unpacks packages of Debian as a base layer has them and writes their tar.
func unpackDebian(ctx context.Context, dir, name, version string) error {
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	script := `apt-get download -qq -o APT::Sandbox::User=root "$@" && for deb in *.deb; do dpkg-deb -x "$deb" tree; done &&
tar -C tree --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$OUT" .`
	packages := append(slices.Clone(debianKept), debianTrees[version]...)
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh"}, packages...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "OUT="+name+".partial")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packages of Debian %s: %w: %s", version, err, out)
	}
	return os.Rename(name+".partial", name)
}
