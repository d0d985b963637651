package receipt_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/sign"
)

const (
	north = "7f0c3f0e-6d0f-4c43-9c2e-0d5c1f9b1a01"
	south = "7f0c3f0e-6d0f-4c43-9c2e-0d5c1f9b1a02"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// applied is a receipt of a cluster, so many days old.
func applied(cluster string, days int) receipt.Receipt {
	return receipt.Receipt{
		Name: "edge", Version: "1.4.0", Digest: digest.FromString("edge"), Cluster: cluster,
		Policies: []receipt.Policy{{Name: "trust.yaml", Digest: digest.FromString("policy")}}, Values: digest.FromString("values"),
		Outcome: receipt.Applied, Bundles: receipt.Bundles{Applied: []string{"web"}, Unchanged: []string{"cert-manager"}},
		Started: now.AddDate(0, 0, -days).Add(-time.Minute), Finished: now.AddDate(0, 0, -days), Program: "1.0.0",
	}
}

func signed(t testing.TB, r receipt.Receipt, by *sign.Signer) []byte {
	t.Helper()
	data, err := r.Sign(t.Context(), by)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func verifier(t testing.TB, opts receipt.Options) *receipt.Verifier {
	t.Helper()
	opts.Now = now
	v, err := receipt.NewVerifier(opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What a site signs is what the other side reads.
func TestRoundTrip(t *testing.T) {
	s := signtest.NewSigner(t)
	r := applied(north, 1)
	r.Outcome, r.Failure = receipt.Failed, "findings"
	r.Bundles = receipt.Bundles{Applied: []string{"a"}, Unchanged: []string{"b"}, Deleted: []string{"c"}, Failed: []string{"d"}, Blocked: []string{"e"}, NotBegun: []string{"f"}}
	data := signed(t, r, s)
	if !receipt.IsReceipt(data) || receipt.IsReceipt([]byte("{}")) {
		t.Error("what is a receipt is not told from what is not")
	}
	v := verifier(t, receipt.Options{Keys: []*sign.Key{s.Key()}})
	if err := v.Add(".", "north.json", data); err != nil {
		t.Fatal(err)
	}
	state := v.State()
	if len(state.Lines) != 1 {
		t.Fatalf("%+v", state)
	}
	line := state.Lines[0]
	if got, want := fmt.Sprintf("%+v", line.Receipt), fmt.Sprintf("%+v", r); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if line.KeyID != s.Key().ID() || line.File != "north.json" || line.Age != 24*time.Hour || line.State != receipt.Current {
		t.Errorf("%+v", line)
	}
	// Other programs read it as an in-toto statement.
	var envelope struct{ Payload []byte }
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
		Predicate map[string]any
	}
	if err := errors.Join(json.Unmarshal(data, &envelope), json.Unmarshal(envelope.Payload, &statement)); err != nil {
		t.Fatal(err)
	}
	if statement.Type != "https://in-toto.io/Statement/v1" || statement.PredicateType != receipt.PredicateType ||
		statement.Subject[0].Digest["sha256"] != r.Digest.Encoded() || statement.Predicate["finished"] != "2026-11-28T12:00:00Z" {
		t.Errorf("%+v", statement)
	}
}

// A runtime of forty bundles with real names fits into a QR code, whichever kind of key signs.
func TestSize(t *testing.T) {
	r := applied(north, 0)
	r.Program, r.Policies = "1.12.0-dev.20261129", append(r.Policies, receipt.Policy{Name: "machine.yaml", Digest: digest.FromString("x")})
	r.Bundles = receipt.Bundles{}
	for i := range 40 {
		r.Bundles.Applied = append(r.Bundles.Applied, fmt.Sprintf("%s-%d", []string{"cert-manager", "kube-prometheus-stack", "metallb", "csi-driver-nfs"}[i%4], i))
	}
	size := len(signed(t, r, signtest.NewSigner(t)))
	t.Logf("%d bundles: %d bytes", len(r.Bundles.Applied), size)
	if size > receipt.MaxQRCode {
		t.Errorf("%d bytes, more than the %d of a QR code", size, receipt.MaxQRCode)
	}
}

func TestSignRefuses(t *testing.T) {
	s := signtest.NewSigner(t)
	for name, change := range map[string]func(*receipt.Receipt){
		"no cluster":            func(r *receipt.Receipt) { r.Cluster = "" },
		"no digest":             func(r *receipt.Receipt) { r.Digest = "" },
		"another algorithm":     func(r *receipt.Receipt) { r.Digest = digest.SHA512.FromString("") },
		"no outcome":            func(r *receipt.Receipt) { r.Outcome = "" },
		"failure of a success":  func(r *receipt.Receipt) { r.Failure = "findings" },
		"a message as failure":  func(r *receipt.Receipt) { r.Outcome, r.Failure = receipt.Failed, "password is hunter2" },
		"a bundle in two":       func(r *receipt.Receipt) { r.Bundles.Failed = r.Bundles.Applied },
		"escapes in a name":     func(r *receipt.Receipt) { r.Bundles.Failed = []string{"\x1b[2J"} },
		"finished before begun": func(r *receipt.Receipt) { r.Finished = r.Started.Add(-time.Second) },
		"no time":               func(r *receipt.Receipt) { r.Started, r.Finished = time.Time{}, time.Time{} },
		"a policy without name": func(r *receipt.Receipt) { r.Policies[0].Name = "" },
		"a long version":        func(r *receipt.Receipt) { r.Version = strings.Repeat("1", 300) },
		"too large": func(r *receipt.Receipt) {
			for i := range 9000 {
				r.Bundles.Failed = append(r.Bundles.Failed, fmt.Sprintf("%s-%d", strings.Repeat("x", 40), i))
			}
		},
	} {
		r := applied(north, 0)
		change(&r)
		if data, err := r.Sign(t.Context(), s); err == nil {
			t.Errorf("%s: signed %s", name, data)
		}
	}
}

const fleetHead = "apiVersion: krtpkg.dev/v1alpha1\nkind: Fleet\nclusters:\n"

func fleet(t testing.TB, rest string, keys map[string]*sign.Signer) *receipt.Fleet {
	t.Helper()
	f, err := receipt.ParseFleet("fleet.yaml", []byte(fleetHead+rest), func(name string) ([]byte, error) {
		return keys[name].Key().PEM()
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Each receipt that does not count is refused for its reason, and all others count.
func TestRefused(t *testing.T) {
	site, foreign, northern := signtest.NewSigner(t), signtest.NewSigner(t), signtest.NewSigner(t)
	both := "- {name: north, id: " + north + "}\n- {name: south, id: " + south + "}\n"
	envelope := func(kind, payload string, by *sign.Signer) []byte {
		data, err := sign.SignEnvelope(t.Context(), by, kind, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var parts struct {
		Payload    []byte            `json:"payload"`
		Type       string            `json:"payloadType"`
		Signatures []json.RawMessage `json:"signatures"`
	}
	good := signed(t, applied(north, 1), site)
	if err := json.Unmarshal(good, &parts); err != nil {
		t.Fatal(err)
	}
	text := string(parts.Payload)
	swapped := bytes.Replace(good, []byte(base64.StdEncoding.EncodeToString(parts.Payload)), []byte(base64.StdEncoding.EncodeToString([]byte(strings.Replace(text, north, south, 1)))), 1)
	future := applied(north, 0)
	future.Finished = now.Add(time.Hour)
	const intoto = "application/vnd.in-toto+json"
	for _, c := range []struct {
		name, file, fleet string
		data              []byte
		previous          []receipt.Line
		reason            receipt.Reason
		want              string
	}{
		{name: "good", file: "receipts/north.json", fleet: both, data: good},
		{name: "good, in a folder of its name", file: "receipts/north/edge.json", fleet: both, data: good},
		{name: "good, any name", file: "receipts/scan-0001.json", fleet: both, data: good},
		{name: "good, without a fleet", file: "receipts/" + north + ".json", data: good},
		{name: "forged with another key", file: "receipts/north.json", data: signed(t, applied(north, 1), foreign), reason: receipt.UnknownKey, want: "signed with key " + foreign.Key().ID()},
		{name: "forged under the key's name", file: "receipts/north.json", data: bytes.ReplaceAll(signed(t, applied(north, 1), foreign), []byte(foreign.Key().ID()), []byte(site.Key().ID())), reason: receipt.Altered, want: "names the trusted key"},
		{name: "changed payload", file: "receipts/north.json", data: swapped, reason: receipt.Altered, want: "names the trusted key"},
		{name: "by another site's key", file: "receipts/x.json", fleet: "- {name: north, id: " + north + ", key: north.pub}\n- {name: south, id: " + south + "}\n", data: good, reason: receipt.UnknownKey, want: "is not a key of cluster north"},
		{name: "by the site's own key", file: "receipts/x.json", fleet: "- {name: north, id: " + north + ", key: north.pub}\n", data: signed(t, applied(north, 1), northern)},
		{name: "by a site's key for another site", file: "receipts/x.json", fleet: "- {name: north, id: " + north + ", key: north.pub}\n- {name: south, id: " + south + "}\n", data: signed(t, applied(south, 1), northern), reason: receipt.UnknownKey, want: "is not a key of cluster south"},
		{name: "of another cluster than its file", file: "receipts/south.json", fleet: both, data: good, reason: receipt.OtherCluster, want: "receipt names cluster north, but south is " + south},
		{name: "of another cluster than its folder", file: "receipts/south/edge.json", fleet: both, data: good, reason: receipt.OtherCluster, want: "receipt names cluster north"},
		{name: "of another cluster than its file, by id", file: "receipts/" + south + ".json", data: good, reason: receipt.OtherCluster, want: "but its file is for " + south},
		{name: "of a cluster that the fleet lacks", file: "receipts/x.json", fleet: "- {name: south, id: " + south + "}\n", data: good, reason: receipt.OtherCluster, want: "which is not in fleet.yaml"},
		{name: "replayed", file: "receipts/north.json", fleet: both, data: good, previous: []receipt.Line{receipt.Seen(north, "edge", "1.5.0", digest.FromString("new"), now.Add(-time.Hour))}, reason: receipt.Replayed, want: "but a newer receipt for runtime edge on cluster north was already seen (2026-11-29T11:00:00Z)"},
		{name: "seen before", file: "receipts/north.json", data: good, previous: []receipt.Line{receipt.Seen(north, "edge", "1.4.0", digest.FromString("edge"), now.AddDate(0, 0, -1))}},
		{name: "newer than before", file: "receipts/north.json", data: good, previous: []receipt.Line{receipt.Seen(north, "edge", "1.4.0", digest.FromString("edge"), now.AddDate(0, 0, -2))}},
		{name: "from the future", file: "receipts/north.json", data: signed(t, future, site), reason: receipt.Future, want: "yet to come"},
		{name: "another statement by the key", file: "receipts/north.json", data: envelope(intoto, strings.Replace(text, "receipt/v1", "promotion/v1", 1), site), reason: receipt.Malformed, want: "promotion/v1"},
		{name: "another payload by the key", file: "receipts/north.json", data: envelope("text/plain", text, site), reason: receipt.Malformed, want: "payload type"},
		{name: "two subjects", file: "receipts/north.json", data: envelope(intoto, strings.Replace(text, `"subject":[`, `"subject":[{},`, 1), site), reason: receipt.Malformed, want: "2 subjects"},
		{name: "escapes", file: "receipts/north.json", data: envelope(intoto, strings.Replace(text, `"web"`, `"\u001b]0;x\u0007"`, 1), site), reason: receipt.Malformed, want: `bundle "\x1b]0;x\a"`},
		{name: "too many values", file: "receipts/north.json", data: envelope(intoto, `{"_type":[`+strings.Repeat("1,", 20_000)+`1]}`, site), reason: receipt.Malformed, want: "values"},
		{name: "too deep", file: "receipts/north.json", data: envelope(intoto, strings.Repeat("[", 300), site), reason: receipt.Malformed, want: "nested deeper"},
		{name: "too large", file: "receipts/north.json", data: bytes.Repeat([]byte(" "), receipt.MaxSize+1), reason: receipt.Malformed, want: "the limit is"},
		{name: "no receipt", file: "receipts/north.json", data: []byte("hello"), reason: receipt.Malformed, want: "invalid character"},
		{name: "half of one", file: "receipts/north.json", data: good[:len(good)/2], reason: receipt.Malformed, want: "unexpected end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := receipt.Options{Keys: []*sign.Key{site.Key()}, Previous: c.previous}
			if c.fleet != "" {
				opts.Fleet = fleet(t, c.fleet, map[string]*sign.Signer{"north.pub": northern})
			}
			v := verifier(t, opts)
			added := v.Add("receipts", c.file, c.data)
			state := v.State()
			if c.reason == "" {
				if added != nil || len(state.Refused) > 0 || state.Lines[0].State != receipt.Current {
					t.Errorf("error %v, state %+v", added, state)
				}
				return
			}
			if len(state.Refused) != 1 || state.Refused[0].Reason != c.reason || !strings.Contains(state.Refused[0].Error(), c.want) {
				t.Errorf("refused %v, want %s: %s", state.Refused, c.reason, c.want)
			}
			for _, line := range state.Lines {
				if line.State != receipt.Missing {
					t.Errorf("what was refused counts: %+v", line)
				}
			}
		})
	}
}

// What is missing and what is old is told, and a history of receipts counts once.
func TestState(t *testing.T) {
	s := signtest.NewSigner(t)
	third, fourth := strings.Replace(north, "a01", "a03", 1), strings.Replace(north, "a01", "a04", 1)
	f := fleet(t, "- {name: west, id: "+fourth+"}\n- {name: north, id: "+north+", runtimes: [edge, shop]}\n- {name: south, id: "+south+"}\n- {name: east, id: "+third+"}\n", nil)
	v := verifier(t, receipt.Options{Keys: []*sign.Key{s.Key()}, Fleet: f, MaxAge: 30 * 24 * time.Hour, Previous: []receipt.Line{
		receipt.Seen(third, "edge", "1.3.0", digest.FromString("old"), now.AddDate(0, 0, -3)),
		receipt.Seen("gone", "edge", "1.3.0", digest.FromString("old"), now),
	}})
	for file, data := range map[string][]byte{
		"north.json": signed(t, applied(north, 1), s), "north/1.json": signed(t, applied(north, 2), s), "south.json": signed(t, applied(south, 31), s),
	} {
		if err := v.Add(".", file, data); err != nil {
			t.Fatal(err)
		}
	}
	state := v.State()
	var got []string
	for _, l := range state.Lines {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", l.Cluster, l.Receipt.Name, l.Receipt.Version, l.State, l.Age))
	}
	want := []string{"west   missing 0s", "north edge 1.4.0 current 24h0m0s", "north shop  missing 0s", "south edge 1.4.0 old 744h0m0s", "east edge 1.3.0 missing 72h0m0s"}
	if fmt.Sprint(got) != fmt.Sprint(want) || state.Superseded != 1 || state.Missing() != 3 || state.Old() != 1 || len(state.Refused) != 0 {
		t.Errorf("got  %q\nwant %q\n%+v", got, want, state)
	}
}

func TestFleetFile(t *testing.T) {
	for rest, want := range map[string]string{
		"": "want a list",
		"- {name: a, id: one}\n- {name: a, id: two}\n": `fleet.yaml:5:10: cluster name "a"`,
		"- {name: a, id: one}\n- {name: b, id: one}\n": "cluster b has the id of a",
		"- {name: a}\n": "want the UID",
		"- {name: a, id: one, runtimes: [edge, edge]}\n":         "each once",
		"- {name: a, id: one, key: other.pub}\n":                 "cluster a: ",
		"- {name: a, id: one, Runtimes: [edge]}\n":               "unknown field",
		"- {name: a, id: one}\n---\na: b\n":                      "single document",
		"- {name: a, id: one, key: '-----BEGIN nothing-----'}\n": "no PEM block",
	} {
		_, err := receipt.ParseFleet("fleet.yaml", []byte(fleetHead+rest), func(string) ([]byte, error) { return nil, errors.New("not found") })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", rest, err, want)
		}
	}
	if _, err := receipt.NewVerifier(receipt.Options{}); err == nil {
		t.Error("a verifier that trusts no key was made")
	}
}

// Contexts of a kubeconfig have any name, and each gets a file of its own, which is recognized.
func TestFileName(t *testing.T) {
	names := map[string]bool{}
	for _, name := range []string{"north", "arn:aws:eks:eu-central-1:1:cluster/north", "../north", "a/b", "a%2Fb", "C:\\x", "admin@north"} {
		file := receipt.FileName(name)
		if names[file] || strings.ContainsAny(file, `/\:`) {
			t.Errorf("%s: %s", name, file)
		}
		names[file] = true
		s := signtest.NewSigner(t)
		v := verifier(t, receipt.Options{Keys: []*sign.Key{s.Key()}, Fleet: fleet(t, fmt.Sprintf("- {name: '%s', id: %s}\n", name, south), nil)})
		var refused *receipt.RefusedError
		if err := v.Add("receipts", "receipts/"+file, signed(t, applied(north, 0), s)); !errors.As(err, &refused) || refused.Reason != receipt.OtherCluster || !strings.Contains(err.Error(), "but "+name+" is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A thousand receipts of a thousand clusters, each with a key of its own.
func BenchmarkVerify(b *testing.B) {
	var yaml strings.Builder
	keys, files := map[string]*sign.Signer{}, map[string][]byte{}
	for i := range 1000 {
		name, id := fmt.Sprintf("site-%d", i), fmt.Sprintf("7f0c3f0e-6d0f-4c43-9c2e-%012d", i)
		keys[name] = signtest.NewSigner(b)
		fmt.Fprintf(&yaml, "- {name: %s, id: %s, key: %s}\n", name, id, name)
		r := applied(id, 1)
		for j := range 30 {
			r.Bundles.Unchanged = append(r.Bundles.Unchanged, fmt.Sprintf("kube-prometheus-%d", j))
		}
		files[name+".json"] = signed(b, r, keys[name])
	}
	f := fleet(b, yaml.String(), keys)
	for b.Loop() {
		v := verifier(b, receipt.Options{Keys: []*sign.Key{keys["site-0"].Key()}, Fleet: f})
		for file, data := range files {
			if err := v.Add(".", file, data); err != nil {
				b.Fatal(err)
			}
		}
		if state := v.State(); len(state.Lines) != 1000 || state.Missing() > 0 {
			b.Fatalf("%+v", state)
		}
	}
}

// Whatever a receipt is made of: it is refused, or is valid and can be signed again.
func FuzzAdd(f *testing.F) {
	s := signtest.NewSigner(f)
	data := signed(f, applied(north, 1), s)
	var envelope struct{ Payload []byte }
	if err := json.Unmarshal(data, &envelope); err != nil {
		f.Fatal(err)
	}
	f.Add(data, envelope.Payload)
	f.Add([]byte(`{"payloadType":"x","payload":"AAAA","signatures":[{}]}`), []byte(`{"subject":[{"digest":null}]}`))
	f.Fuzz(func(t *testing.T, file, payload []byte) {
		v := verifier(t, receipt.Options{Keys: []*sign.Key{s.Key()}})
		if err := v.Add(".", "a.json", file); err == nil && !bytes.Contains(file, []byte(s.Key().ID())) {
			t.Errorf("counts without a signature: %q", file)
		}
		wrapped, err := sign.SignEnvelope(t.Context(), s, "application/vnd.in-toto+json", payload)
		if err != nil {
			t.Skip() // over the limit
		}
		if err := v.Add(".", "b.json", wrapped); err != nil {
			return
		}
		for _, line := range v.State().Lines {
			if _, err := line.Receipt.Sign(t.Context(), s); err != nil && len(payload) < receipt.MaxSize/2 {
				t.Errorf("%q: %v", payload, err)
			}
		}
	})
}
