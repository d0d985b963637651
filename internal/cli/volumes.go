package cli

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/archive"
)

// oneReference is the Args of a command on one reference, as which all volumes of an archive count:
// args[0] becomes that.
func oneReference(_ *cobra.Command, args []string) (err error) {
	if len(args) == 0 {
		return errors.New("reference required: REGISTRY/REPOSITORY:TAG, oci:FOLDER:TAG or FILE.tar")
	}
	args[0], err = place.Single(args)
	return err
}

// oneReferenceAtMost is [oneReference] for a command that can do without.
func oneReferenceAtMost(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneReference(cmd, args)
}

// requireWholeSets returns an error if volumes of an archive were checked together, but not all.
func requireWholeSets(places []checkedPlace) error {
	var errs []error
	for i, v := range places {
		if v.Volume == 0 || slices.ContainsFunc(places[:i], func(other checkedPlace) bool { return other.set == v.set }) {
			continue
		}
		var names []string
		checked := map[int]bool{}
		for _, other := range places {
			if other.set == v.set {
				names, checked[other.Volume] = append(names, other.Reference), true
			}
		}
		var absent []int
		for n := 1; n <= v.Volumes; n++ {
			if !checked[n] {
				absent = append(absent, n)
			}
		}
		if len(absent) > 0 && len(names) > 1 {
			errs = append(errs, &archive.AbsentVolumesError{Volumes: absent, Of: v.Volumes, Near: names})
		}
	}
	return errors.Join(errs...)
}

// markWholeSets marks the volumes of each archive of which all were checked.
func markWholeSets(places []checkedPlace) {
	seen := map[string]map[int]bool{}
	for i, v := range places {
		if v.Volume == 0 {
			continue
		}
		if seen[v.set] == nil {
			seen[v.set] = map[int]bool{}
		}
		if seen[v.set][v.Volume] = true; len(seen[v.set]) < v.Volumes || v.Volumes < 2 {
			continue
		}
		for k := range places[:i+1] {
			places[k].isWhole = places[k].isWhole || places[k].set == v.set
		}
	}
}
