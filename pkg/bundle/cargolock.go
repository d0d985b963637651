package bundle

import (
	"fmt"
	"path"
	"strings"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/images"
)

// splitCargo parts the locked files and charts from the images. The lock has exactly what a build locks for the
// definition: what has another name or other content would be an image that nothing checks as one.
func (c *Content) splitCargo(all images.Lock) error {
	if c.Bundle == nil {
		c.Images = all
		return nil
	}
	if err := c.checkBuiltCargo(); err != nil {
		return err
	}
	expected, err := c.listLocks()
	if err != nil {
		return err
	}
	unlocked := make(map[string]bool, len(expected))
	for _, e := range expected {
		unlocked[e.key] = true
	}
	c.Images = make(images.Lock, 0, len(all))
	for _, locked := range all {
		if !IsCargo(locked.Image) {
			if at, _ := locked.CalledBy(); at.RegistryStr() == Nowhere {
				return fmt.Errorf("%s locks %s as %s, a name of files and charts", fileImages, locked.Image, locked.Reference)
			}
			c.Images = append(c.Images, locked)
			continue
		}
		key := lockKey(locked)
		if !unlocked[key] {
			return fmt.Errorf("%s locks %s as %s, which is not a file or a chart of the bundle", fileImages, locked.Image, locked.Reference)
		}
		delete(unlocked, key)
		c.Cargo = append(c.Cargo, locked)
	}
	for _, e := range expected {
		if unlocked[e.key] {
			return fmt.Errorf("%s is not in %s", e.what, fileImages)
		}
	}
	return nil
}

// expectedLock is what the lock has of a file or a chart.
type expectedLock struct{ key, what string }

func lockKey(locked images.Locked) string { return locked.Image.Name() + " " + locked.Reference }

// listLocks returns what the lock has of each file and chart. The artifacts of files follow from the definition.
func (c *Content) listLocks() (all []expectedLock, err error) {
	spec := &c.Bundle.Spec
	err = eachFileArtifact(spec.Files, func(of []int, _ []jsonBlob, locked images.Locked) error {
		for _, i := range of {
			if got, want := spec.Files[i].Artifact, locked.Image.DigestStr(); got != want {
				return fmt.Errorf("its artifact is %q, want %s", got, want)
			}
		}
		all = append(all, expectedLock{lockKey(locked), "file " + spec.Files[of[0]].Name})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range spec.Charts {
		chart := &spec.Charts[i]
		locked, err := chart.lock()
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", chart.packedName(), err)
		}
		all = append(all, expectedLock{lockKey(locked), "chart " + chart.packedName()})
	}
	return all, nil
}

// checkBuiltCargo holds files and charts to what a build sets.
func (c *Content) checkBuiltCargo() error {
	for i := range c.Bundle.Spec.Files {
		if f := &c.Bundle.Spec.Files[i]; f.SHA256 == "" {
			return fmt.Errorf("file %s has no sha256", f.Name)
		}
	}
	_, err := c.Bundle.Spec.CheckBuiltCharts()
	return err
}

// CheckBuiltCharts checks the charts of a bundle that is built: each has what a build sets, and a name of its own among
// the charts and files that are fetched. The error is about the chart with index i.
func (s *BundleSpec) CheckBuiltCharts() (i int, err error) {
	taken := map[string]string{}
	for _, f := range s.Files {
		taken[strings.ToLower(f.Name)] = "a file"
	}
	for i := range s.Charts {
		c := &s.Charts[i]
		if c.SHA256 == "" || c.Chart == "" || c.Version == "" {
			return i, fmt.Errorf("chart %s has no sha256, name or version", c.Origin())
		}
		called := c.packedName()
		if _, err := semver.NewVersion(c.Version); err != nil || !fileName.MatchString(called) {
			return i, fmt.Errorf("chart %s has version %q, want a version such as 1.2.0", c.Origin(), c.Version)
		}
		if first := taken[strings.ToLower(called)]; first != "" {
			return i, fmt.Errorf("chart %s %s from %s is fetched as %s, and so is %s: remove one, or give it another name or version",
				path.Base(c.Chart), c.Version, c.Origin(), called, first)
		}
		taken[strings.ToLower(called)] = "the chart from " + c.Origin()
	}
	return 0, nil
}
