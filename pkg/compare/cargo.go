package compare

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// CargoChange is a file or a chart of a bundle that is not the same in both versions.
type CargoChange struct {
	Bundle string `json:"bundle"`
	// Kind is file or chart.
	Kind bundle.CargoKind `json:"kind"`
	// Name is that of the file, or of the chart.
	Name string `json:"name"`
	// Platform is absent for what is for any.
	Platform string `json:"platform,omitempty"`
	Change   Change `json:"change"`
	// Old and New are absent where the version does not have it.
	Old *CargoState `json:"old,omitempty"`
	New *CargoState `json:"new,omitempty"`
}

// CargoState is a file or a chart in one of the versions.
type CargoState struct {
	// Version is that of a chart.
	Version string `json:"version,omitempty"`
	// Origin is where it came from: a URL, or a path next to the definition.
	Origin string `json:"origin"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Mode is that of a file, such as 0755.
	Mode string `json:"mode,omitempty"`
}

// compareCargo lists the files and charts that differ, in the order of bundles and names.
func compareCargo(pairs []bundlePair) (all []CargoChange) {
	for i := range pairs {
		p := &pairs[i]
		old, current := pairCargo(listCargoStates(p.old.artifact), listCargoStates(p.new.artifact))
		var changed []CargoChange
		for key, state := range current {
			switch was := old[key]; {
			case was == nil:
				changed = append(changed, key.describeChange(p.name, Added, nil, state))
			case was.Digest != state.Digest || was.Mode != state.Mode:
				changed = append(changed, key.describeChange(p.name, Changed, was, state))
			}
		}
		for key, state := range old {
			if current[key] == nil {
				changed = append(changed, key.describeChange(p.name, Removed, state, nil))
			}
		}
		slices.SortFunc(changed, func(a, b CargoChange) int {
			return cmp.Or(cmp.Compare(b.Kind, a.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.version(), b.version()))
		})
		all = append(all, changed...)
	}
	return all
}

// version returns the version of a chart that changed.
func (c CargoChange) version() string {
	if c.Old != nil {
		return c.Old.Version
	}
	return c.New.Version
}

// cargoKey is what a file or a chart has in common with that of another version.
type cargoKey struct {
	kind           bundle.CargoKind
	name, platform string
	// rank tells several versions of a chart apart.
	rank int
}

func (k cargoKey) describeChange(bundleName string, change Change, old, current *CargoState) CargoChange {
	return CargoChange{Bundle: bundleName, Kind: k.kind, Name: k.name, Platform: k.platform, Change: change, Old: old, New: current}
}

// keyedState is a file or a chart, which may be one of several versions.
type keyedState struct {
	key   cargoKey
	state *CargoState
}

func listCargoStates(b *bundle.Artifact) (all []keyedState) {
	if b == nil {
		return nil
	}
	for _, item := range b.ListCargo() {
		of := keyedState{
			cargoKey{kind: item.Kind, name: item.Name, platform: item.Platform},
			&CargoState{Origin: item.Origin, Digest: item.Content.Digest.String(), Size: item.Content.Size},
		}
		if item.Chart != nil {
			of.key.name, of.state.Version = item.Chart.Chart, item.Chart.Version
		} else {
			of.state.Mode = fmt.Sprintf("%04o", item.Mode)
		}
		all = append(all, of)
	}
	return all
}

// pairCargo gives files and charts of both sides the same keys where they are the same thing. Of a chart in several
// versions those that both sides have stay out of it, and the others follow each other in the order of versions.
func pairCargo(old, current []keyedState) (oldStates, states map[cargoKey]*CargoState) {
	type version struct {
		cargoKey
		CargoState
	}
	identify := func(of keyedState) version {
		same := *of.state
		same.Origin = ""
		return version{of.key, same}
	}
	has := [2]map[version]bool{{}, {}}
	for side, states := range [][]keyedState{old, current} {
		for _, of := range states {
			has[side][identify(of)] = true
		}
	}
	rank := func(all []keyedState, other map[version]bool) map[cargoKey]*CargoState {
		all = slices.DeleteFunc(all, func(of keyedState) bool { return other[identify(of)] })
		slices.SortStableFunc(all, func(a, b keyedState) int { return compareVersions(a.state.Version, b.state.Version) })
		ranked := map[cargoKey]*CargoState{}
		for _, of := range all {
			for ranked[of.key] != nil {
				of.key.rank++
			}
			ranked[of.key] = of.state
		}
		return ranked
	}
	return rank(old, has[1]), rank(current, has[0])
}

// compareVersions orders the versions of a chart.
func compareVersions(a, b string) int {
	first, err := semver.NewVersion(a)
	second, otherErr := semver.NewVersion(b)
	if err != nil || otherErr != nil {
		return cmp.Compare(a, b)
	}
	return cmp.Or(first.Compare(second), cmp.Compare(a, b))
}
