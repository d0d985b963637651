package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// loadedPolicy is a policy as it was loaded, with the verdicts under it.
type loadedPolicy struct {
	policy *trust.Policy
	// err refuses everything.
	err error
	// files are what the policy was read from, sum is what was in them.
	files []string
	sum   [sha256.Size]byte
	at    time.Time
	// decided is what was decided under it.
	decided *decisions
}

// errNoPolicy is the error of a gate without a policy.
var errNoPolicy = errors.New("no trust policy: everything is refused")

// loadPolicy loads the policy. It was read between two looks at its files that show the same.
func (g *Gate) loadPolicy(ctx context.Context) *loadedPolicy {
	var r *loadedPolicy
	for range 5 {
		r = &loadedPolicy{at: time.Now(), decided: newDecisions(g.o.MemoryBytes / 2)}
		r.policy, r.err = g.o.LoadPolicy(ctx)
		if r.err == nil && r.policy == nil {
			r.err = errNoPolicy
		}
		files := listPolicyFiles(r.policy, g.o.PolicyFiles)
		r.files, r.sum = files, sumFiles(files)
		if r.err != nil {
			break // it is looked at again anyway
		}
		again, err := g.o.LoadPolicy(ctx)
		if err == nil && again != nil && sumFiles(files) == r.sum && slices.Equal(files, listPolicyFiles(again, g.o.PolicyFiles)) {
			r.policy = again
			break
		}
		r.err = errors.New("trust policy: its files change while they are read")
	}
	return r
}

// listPolicyFiles returns the files of a policy, and of those that must also accept.
func listPolicyFiles(policy *trust.Policy, more []string) (files []string) {
	files = slices.Clone(more)
	for ; policy != nil; policy = policy.Combined() {
		if policy.Name == "" {
			continue // of flags
		}
		files = append(files, policy.Name)
		for _, a := range policy.File.Authorities {
			for _, text := range []string{a.Key, a.TrustedRoot, a.Certificates, a.Timestamps} {
				if text == "" || strings.ContainsAny(text, "\n{") {
					continue // in the policy itself
				}
				if !filepath.IsAbs(text) {
					text = filepath.Join(filepath.Dir(policy.Name), text)
				}
				files = append(files, text)
			}
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// maxPolicyFile is how much of a policy's file is looked at.
const maxPolicyFile = 16 << 20

// sumFiles hashes the content of files. One that cannot be read differs from one that can.
func sumFiles(files []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range files {
		one := sha256.New()
		file, err := os.Open(name)
		if err == nil {
			_, err = io.Copy(one, io.LimitReader(file, maxPolicyFile))
			file.Close()
		}
		fmt.Fprintf(h, "%q %x %v\n", name, one.Sum(nil), err)
	}
	h.Sum(sum[:0])
	return sum
}

// watchPolicy loads the policy again when its files change.
func (g *Gate) watchPolicy() {
	tick := time.NewTicker(g.o.Watch)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
		}
		now := g.policy.Load()
		if now.err == nil && sumFiles(now.files) == now.sum {
			continue
		}
		next := g.loadPolicy(g.ctx)
		if g.ctx.Err() != nil {
			return
		}
		if now.err != nil && next.err != nil && now.err.Error() == next.err.Error() {
			continue
		}
		g.policy.Store(next)
		g.metrics.policyLoads.Add(1)
		g.o.Report(Event{Kind: EventPolicy, Err: next.err})
	}
}

// nextChange returns the next time at which a verdict of the policy may change, no later than latest.
func (r *loadedPolicy) nextChange(now, latest time.Time) time.Time {
	for p := r.policy; p != nil; p = p.Combined() {
		for _, a := range p.File.Authorities {
			for _, t := range []time.Time{a.NotBefore, a.NotAfter} {
				if t.After(now) && t.Before(latest) {
					latest = t
				}
			}
		}
	}
	return latest
}
