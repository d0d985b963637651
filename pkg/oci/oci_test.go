package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/oci"
)

const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestReadIndex(t *testing.T) {
	t.Parallel()
	entry := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":5,"annotations":{"a":"b, [{ \"c"}}`, digest)
	for _, c := range []struct{ name, text, want string }{
		{"empty object", `{}`, ""},
		{"what is written today", `{"schemaVersion":2,"mediaType":"m","artifactType":"a","manifests":[` + entry + `,` + entry + `],"annotations":{"x":"y"},"subject":` + entry + `}`, ""},
		{"white space and fields of later versions", " {\n\"later\": [{\"a\":[1,2.5,null,true]}], \"manifests\" : [ ] }\n ", ""},
		{"null", `{"manifests":null}`, ""},
		{"no object", `[]`, "want {, not ["},
		{"nothing", ``, "unexpected EOF"},
		{"cut in the list", `{"manifests":[` + entry, "unexpected EOF"},
		{"cut in an entry", `{"manifests":[` + entry[:40], "unexpected EOF"},
		{"a list that is none", `{"manifests":{}}`, "manifests: want a list, not {"},
		{"an entry that is none", `{"manifests":["x"]}`, "manifests: json: cannot unmarshal"},
		{"a field twice", `{"manifests":[],"manifests":[` + entry + `]}`, `duplicate field "manifests"`},
		{"something behind", `{} {}`, "trailing data"},
		{"too many entries", `{"manifests":[` + strings.Repeat("{},", oci.MaxIndexEntries) + `{}]}`, "manifests: more than 50000 entries: over the limit"},
		{"an entry of many values", `{"manifests":[{"urls":[` + strings.Repeat(`"",`, 800_000) + `""]}]}`, "JSON of more than 750000 values: over the limit"},
		{"depth", `{"x":` + strings.Repeat("[", 201), "nested deeper than 200 levels: over the limit"},
		{"bytes", `{"x":"` + strings.Repeat("x", oci.MaxIndex) + `"}`, "more than 33554432 bytes: over the limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := oci.ReadIndex(strings.NewReader(c.text))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("no %q in: %v", c.want, err)
				}
				return
			}
			var want ocispec.Index
			if err := errors.Join(err, json.Unmarshal([]byte(c.text), &want)); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v; %v", got, want, err)
			}
		})
	}
}

// A manifest that names as much as fits is read.
func TestUnmarshal(t *testing.T) {
	t.Parallel()
	entry := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":512,"platform":{"architecture":"amd64","os":"linux"}}`, digest)
	n := oci.MaxManifest/(len(entry)+1) - 1
	text := `{"manifests":[` + strings.Repeat(entry+",", n-1) + entry + `]}`
	var index ocispec.Index
	if err := oci.UnmarshalJSON([]byte(text), &index); err != nil || len(index.Manifests) != n {
		t.Errorf("%d entries of %d: %v", len(index.Manifests), n, err)
	}
	for _, text := range []string{
		`{"manifests":[` + strings.Repeat("null,", oci.MaxElements) + `{}]}`,
		`{"annotations":{` + strings.Repeat(`"":"",`, oci.MaxElements) + `"":""}}`,
		strings.Repeat(`{"x":`, oci.MaxDepth+1),
	} {
		if err := oci.UnmarshalJSON([]byte(text), &index); !errors.Is(err, oci.ErrTooLarge) {
			t.Errorf("%.30s: %v", text, err)
		}
	}
	// What stands in strings does not count.
	if err := oci.CheckJSON([]byte(`{"a":"`+strings.Repeat(`[,{\"\\`, 100)+`"}`), 3); err != nil {
		t.Error(err)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	ctx, budget := oci.WithBudget(oci.WithMemory(t.Context(), 1000))
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			_, same := oci.WithBudget(ctx)
			if err := same.Take(10); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var over *oci.BudgetError
	if err := budget.Take(1); !errors.As(err, &over) || over.Limit != 1000 || !errors.Is(err, oci.ErrTooLarge) {
		t.Error(err)
	}
	budget.Release(10)
	if err := errors.Join(budget.Take(10)); err != nil {
		t.Error(err)
	}
	if err := budget.Take(-1); err == nil {
		t.Error("less than nothing is taken")
	}
	if _, other := oci.WithBudget(t.Context()); other == budget || other.Take(oci.DefaultMemory) != nil {
		t.Error("operations share a budget, or it is smaller")
	}
}

// What is read of an index is what encoding/json reads of it.
func FuzzReadIndex(f *testing.F) {
	for _, text := range []string{
		`{"schemaVersion":2,"manifests":[{"digest":"` + digest + `","size":1,"annotations":{"a":"b"}}]}`,
		`{"manifests":null,"annotations":{}}`, `{"x":[1,{"y":"\"]"}],"subject":{"size":1}}`, `{"manifests":[{},{}`, `[]`, `{} x`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := oci.ReadIndex(bytes.NewReader(data))
		if err != nil {
			return
		}
		// Names of fields in other cases are other fields, unlike for encoding/json.
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatalf("read, and encoding/json: %v", err)
		}
		var want ocispec.Index
		exact := map[string]json.RawMessage{}
		for _, name := range []string{"schemaVersion", "mediaType", "artifactType", "subject", "annotations", "manifests"} {
			if value, ok := fields[name]; ok {
				exact[name] = value
			}
		}
		plain, err := json.Marshal(exact)
		if err == nil {
			err = json.Unmarshal(plain, &want)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v; %v", got, want, err)
		}
	})
}
