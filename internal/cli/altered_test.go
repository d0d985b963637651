package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"testing"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// repack puts an artifact into the folder that is one there with other content, under a tag.
func (f *forger) repack(manifest, tag string, change func(name string, data []byte) []byte) (digest string) {
	f.t.Helper()
	var m map[string]any
	f.readJSON(manifest, &m)
	layer := layerOf(m, 0)
	packed, err := os.ReadFile(blob(f.site, layer["digest"].(string)))
	if err != nil {
		f.t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		f.t.Fatal(err)
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	to, from := tar.NewWriter(zip), tar.NewReader(unzipped)
	for {
		header, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.t.Fatal(err)
		}
		data, err := io.ReadAll(from)
		if err == nil {
			data = change(header.Name, data)
			header.Size = int64(len(data))
			err = to.WriteHeader(header)
		}
		if err == nil {
			_, err = to.Write(data)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	if err := errors.Join(to.Close(), zip.Close()); err != nil {
		f.t.Fatal(err)
	}
	layer["digest"], layer["size"] = f.put(out.Bytes())
	digest, size := f.putJSON(m)
	f.entries(func(all []entry) []entry {
		return append(all, entry{
			"mediaType": m["mediaType"], "artifactType": m["artifactType"], "digest": digest, "size": size, "annotations": map[string]any{refName: tag},
		})
	})
	return digest
}

// What a controller applies of a runtime, or of a bundle of another's, is what krtpkg checks: what was put
// there by hand is refused, whoever signed it.
func TestControllersGetWhatIsChecked(t *testing.T) {
	t.Parallel()
	f := newForger(t, nil)
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	at := registry.Host + "/krt/edge"
	for tag, c := range map[string]struct{ command, file string }{
		"flux":     {"flux", "flux/base.yaml"},
		"argocd":   {"argocd", "argocd/templates/applications.yaml"},
		"packages": {"install", "packages/base.edge.krtpkg.dev/1.0.0.yml"},
	} {
		f.repack(f.digests["root"], tag, func(name string, data []byte) []byte {
			if name == c.file {
				return append(data, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: evil}\n"...)
			}
			return data
		})
		f.ok("push", "oci:dist:"+tag, at+":"+tag)
		f.ok("sign", "--key", "cosign.key", at+":"+tag)
		f.refused(3, "edge: "+c.file+" does not match the rest of the bundle", "packages", c.command, "--key", "cosign.pub", at+":"+tag)
		if c.command == "install" {
			f.refused(3, c.file, "packages", "repo", "--key", "cosign.pub", at+":"+tag)
		}
		if r := f.run("packages", c.command, "--key", "cosign.pub", "--allow-altered", at+":"+tag); r.code != 0 {
			t.Errorf("--allow-altered: exit code %d\n%s", r.code, r.stderr)
		}
	}
	// A bundle of someone else that tells controllers of fewer manifests than it has.
	bundle := f.repack(f.digests["bundle"], "other", func(name string, data []byte) []byte {
		if name == "kustomization.yaml" {
			return append(data, "# nothing else\n"...)
		}
		return data
	})
	f.write("taken/runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: taken, version: 1.0.0}\nspec:\n  provided: [base]\n  bundles:\n    - ref: oci:../dist@"+bundle+"\n")
	f.refused(3, "kustomization.yaml does not match the rest of the bundle", "build", "-f", "taken", "--to", "oci:taken-dist")
}
