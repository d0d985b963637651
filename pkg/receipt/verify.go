package receipt

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// Options are for [NewVerifier].
type Options struct {
	// Keys are trusted for all clusters to which the fleet gives no key of their own.
	Keys []*sign.Key
	// Fleet names the clusters that receipts are expected of; nil for whichever there are.
	Fleet *Fleet
	// MaxAge is the age from which a receipt is old; no receipt is when zero.
	MaxAge time.Duration
	// Previous is what was seen before: a receipt that is older than what it has of the same cluster and runtime is
	// refused, and what is in it and no longer there is missing.
	Previous []Line
	// Now is the time by which receipts are old; the clock's when zero.
	Now time.Time
}

// Reason is why a receipt is refused.
type Reason string

// The reasons.
const (
	Malformed    Reason = "malformed"    // not a receipt, or over a limit
	UnknownKey   Reason = "unknownKey"   // signed with a key that is not trusted, or not for this cluster
	Altered      Reason = "altered"      // changed after signing, or made by someone without the key
	Replayed     Reason = "replayed"     // older than what was seen before
	OtherCluster Reason = "otherCluster" // of another cluster than its file names, or of none of the fleet
	Future       Reason = "future"       // finished at a time that is yet to come
)

// RefusedError is the error of a receipt that does not count.
type RefusedError struct {
	// File is what the receipt was read from.
	File   string
	Reason Reason
	Err    error
}

func (e *RefusedError) Error() string { return fmt.Sprintf("receipt %s: %v", e.File, e.Err) }
func (e *RefusedError) Unwrap() error { return e.Err }

// LineState is how a cluster stands with a runtime.
type LineState string

// The states of a line.
const (
	Current LineState = "current"
	Old     LineState = "old"     // the newest receipt is older than [Options.MaxAge]
	Missing LineState = "missing" // there is no receipt; what the line says is from before
)

// Line is what the newest receipt of a cluster and a runtime says.
type Line struct {
	// Cluster is the name in the fleet, empty without one.
	Cluster string
	State   LineState
	// Receipt is what was signed. Of a missing one only Cluster is sure to be set, and Name if the fleet names a runtime.
	Receipt Receipt
	// KeyID is the key that signed, File what it was read from, and Age is how old it is.
	KeyID, File string
	Age         time.Duration
}

// State is what receipts say of a fleet.
type State struct {
	// Lines are in the order of the fleet, or by cluster; by runtime for each.
	Lines []Line
	// Refused are the receipts that do not count.
	Refused []*RefusedError
	// Superseded is how many receipts count no longer, since a newer one of the same cluster and runtime is there.
	Superseded int
}

// Missing and Old return how many lines are in that state.
func (s *State) Missing() int { return s.count(Missing) }

// Old returns how many lines are old.
func (s *State) Old() int { return s.count(Old) }

func (s *State) count(state LineState) (n int) {
	for _, l := range s.Lines {
		if l.State == state {
			n++
		}
	}
	return n
}

// Verifier collects receipts.
type Verifier struct {
	opts       Options
	keys       []*sign.Key
	newest     map[lineKey]Line
	refused    []*RefusedError
	superseded int
}

type lineKey struct{ cluster, runtime string }

// clockSkew is how far the clock of a site may be ahead.
const clockSkew = 5 * time.Minute

// NewVerifier returns a verifier without receipts. It is an error if no key is trusted.
func NewVerifier(opts Options) (*Verifier, error) {
	v := &Verifier{opts: opts, keys: slices.Clone(opts.Keys), newest: map[lineKey]Line{}}
	if v.opts.Now.IsZero() {
		v.opts.Now = time.Now()
	}
	if opts.Fleet != nil {
		for _, c := range opts.Fleet.Clusters {
			if c.key != nil {
				v.keys = append(v.keys, c.key)
			}
		}
	}
	if len(v.keys) == 0 {
		return nil, errors.New("verify receipts: no key is trusted")
	}
	return v, nil
}

// Add verifies a receipt, the content of a file of the folder dir. One that does not count is a [*RefusedError], which
// [Verifier.State] returns too. The name of the file, and those of folders between it and dir, are compared with the
// clusters of the fleet.
func (v *Verifier) Add(dir, file string, data []byte) error {
	line, err := v.open(dir, file, data)
	if err != nil {
		v.refused = append(v.refused, err)
		return err
	}
	key := lineKey{line.Receipt.Cluster, line.Receipt.Name}
	was, seen := v.newest[key]
	if seen {
		v.superseded++
	}
	if !seen || was.Receipt.Finished.Before(line.Receipt.Finished) {
		v.newest[key] = *line
	}
	return nil
}

// Refuse notes a file that could not be read as a receipt.
func (v *Verifier) Refuse(file string, err error) {
	v.refused = append(v.refused, &RefusedError{file, Malformed, err})
}

func (v *Verifier) open(dir, file string, data []byte) (*Line, *RefusedError) {
	refuse := func(reason Reason, format string, args ...any) (*Line, *RefusedError) {
		return nil, &RefusedError{file, reason, fmt.Errorf(format, args...)}
	}
	if len(data) > MaxSize {
		return refuse(Malformed, "%d bytes, the limit is %d", len(data), MaxSize)
	}
	envelope, err := sign.OpenEnvelope(data, v.keys...)
	switch {
	case errors.Is(err, sign.ErrAltered):
		return refuse(Altered, "%w", err)
	case errors.Is(err, sign.ErrUnknownKey):
		return refuse(UnknownKey, "%w", err)
	case err != nil:
		return refuse(Malformed, "%w", err)
	}
	r, err := parseStatement(envelope.PayloadType, envelope.Payload)
	if err != nil {
		return refuse(Malformed, "%w", err)
	}
	line := &Line{State: Current, Receipt: *r, KeyID: envelope.KeyID, File: file, Age: max(v.opts.Now.Sub(r.Finished), 0)}
	if err := v.checkCluster(line, dir); err != nil {
		return nil, err
	}
	if r.Finished.After(v.opts.Now.Add(clockSkew)) {
		return refuse(Future, "it finished at %s, which is yet to come: the clock of the site is wrong, or that of this machine", r.Finished.Format(time.RFC3339))
	}
	if v.opts.MaxAge > 0 && line.Age > v.opts.MaxAge {
		line.State = Old
	}
	return line, nil
}

// checkCluster compares the cluster of a receipt with the fleet, and with the names of its file and folders.
func (v *Verifier) checkCluster(line *Line, dir string) *RefusedError {
	r, fleet := &line.Receipt, v.opts.Fleet
	other := func(format string, args ...any) *RefusedError {
		return &RefusedError{line.File, OtherCluster, fmt.Errorf(format, args...)}
	}
	known := fleet.findID(r.Cluster)
	if known != nil {
		line.Cluster = known.Name
	}
	for _, part := range fileParts(dir, line.File) {
		named := fleet.findName(part)
		switch {
		case named != nil && named.ID != r.Cluster:
			return other("receipt names cluster %s, but %s is %s", cmp.Or(line.Cluster, r.Cluster), named.Name, named.ID)
		case uid.MatchString(part) && part != r.Cluster:
			return other("receipt names cluster %s, but its file is for %s", r.Cluster, part)
		}
	}
	if fleet != nil && known == nil {
		return other("receipt names cluster %s, which is not in %s", r.Cluster, fleet.file)
	}
	if known != nil && known.key != nil && known.key.ID() != line.KeyID ||
		(known == nil || known.key == nil) && !slices.ContainsFunc(v.opts.Keys, func(k *sign.Key) bool { return k.ID() == line.KeyID }) {
		return &RefusedError{line.File, UnknownKey, fmt.Errorf("%w: signed with key %s, which is not a key of cluster %s", sign.ErrUnknownKey, line.KeyID, cmp.Or(line.Cluster, r.Cluster))}
	}
	return nil
}

var uid = lazyregexp.New(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// fileParts returns what may name a cluster in the name of a file: the folders below dir, and the file without its
// extension.
func fileParts(dir, file string) []string {
	within, err := filepath.Rel(dir, file)
	if err != nil {
		within = filepath.Base(file)
	}
	parts := strings.Split(filepath.ToSlash(within), "/")
	last := len(parts) - 1
	parts[last] = strings.TrimSuffix(parts[last], filepath.Ext(parts[last]))
	for i, part := range parts {
		if name, err := url.PathUnescape(part); err == nil {
			parts[i] = name
		}
	}
	return parts
}

// FileName returns the name of the file for the receipt of a cluster, which may have any name.
func FileName(cluster string) string {
	return strings.NewReplacer(":", "%3A", "\\", "%5C").Replace(url.PathEscape(cluster)) + ".json"
}

// State returns what the receipts say that were added.
func (v *Verifier) State() *State {
	s := &State{Superseded: v.superseded, Refused: slices.Clone(v.refused)}
	lines := map[lineKey]Line{}
	for key, line := range v.newest {
		lines[key] = line
	}
	for _, was := range v.opts.Previous {
		key := lineKey{was.Receipt.Cluster, was.Receipt.Name}
		if key.cluster == "" || key.runtime == "" || v.opts.Fleet != nil && v.opts.Fleet.findID(key.cluster) == nil {
			continue // it was missing then, or is no longer of the fleet
		}
		now, there := lines[key]
		if there && !now.Receipt.Finished.Before(was.Receipt.Finished) {
			continue
		}
		if there {
			s.Refused = append(s.Refused, &RefusedError{now.File, Replayed, fmt.Errorf("dated %s, but a newer receipt for runtime %s on cluster %s was already seen (%s)",
				now.Receipt.Finished.Format(time.RFC3339), key.runtime, cmp.Or(now.Cluster, key.cluster), was.Receipt.Finished.Format(time.RFC3339))})
		}
		was.State, was.Age = Missing, max(v.opts.Now.Sub(was.Receipt.Finished), 0)
		if known := v.opts.Fleet.findID(key.cluster); known != nil {
			was.Cluster = known.Name
		}
		lines[key] = was
	}
	s.Lines = v.sortLines(lines)
	slices.SortStableFunc(s.Refused, func(a, b *RefusedError) int { return strings.Compare(a.File, b.File) })
	return s
}

// sortLines adds what the fleet wants and is missing.
func (v *Verifier) sortLines(lines map[lineKey]Line) []Line {
	byCluster := map[string][]Line{}
	for key, line := range lines {
		byCluster[key.cluster] = append(byCluster[key.cluster], line)
	}
	var ids []string
	if v.opts.Fleet == nil {
		for id := range byCluster {
			ids = append(ids, id)
		}
		slices.Sort(ids)
	} else {
		for _, c := range v.opts.Fleet.Clusters {
			ids = append(ids, c.ID)
			wanted := c.Runtimes
			if len(wanted) == 0 && len(byCluster[c.ID]) == 0 {
				wanted = []string{""}
			}
			for _, runtime := range wanted {
				if _, there := lines[lineKey{c.ID, runtime}]; !there {
					byCluster[c.ID] = append(byCluster[c.ID], Line{Cluster: c.Name, State: Missing, Receipt: Receipt{Cluster: c.ID, Name: runtime}})
				}
			}
		}
	}
	var all []Line
	for _, id := range ids {
		slices.SortFunc(byCluster[id], func(a, b Line) int { return strings.Compare(a.Receipt.Name, b.Receipt.Name) })
		all = append(all, byCluster[id]...)
	}
	return all
}

// Seen returns a line for [Options.Previous], of what an earlier result says of a cluster and a runtime.
func Seen(cluster, runtime, version string, d digest.Digest, finished time.Time) Line {
	return Line{Receipt: Receipt{Cluster: cluster, Name: runtime, Version: version, Digest: d, Finished: finished}}
}
