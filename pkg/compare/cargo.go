package compare

import (
	"cmp"
	"slices"

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
}

// compareCargo lists the files and charts that differ, in the order of bundles and names.
func compareCargo(pairs []bundlePair) (all []CargoChange) {
	for i := range pairs {
		p := &pairs[i]
		old, current := stateOfCargo(p.old.artifact), stateOfCargo(p.new.artifact)
		var changed []CargoChange
		for key, state := range current {
			switch was := old[key]; {
			case was == nil:
				changed = append(changed, key.change(p.name, Added, nil, state))
			case was.Digest != state.Digest:
				changed = append(changed, key.change(p.name, Changed, was, state))
			}
		}
		for key, state := range old {
			if current[key] == nil {
				changed = append(changed, key.change(p.name, Removed, state, nil))
			}
		}
		slices.SortFunc(changed, func(a, b CargoChange) int {
			return cmp.Or(cmp.Compare(b.Kind, a.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Platform, b.Platform))
		})
		all = append(all, changed...)
	}
	return all
}

// cargoKey is what a file or a chart has in common with that of another version.
type cargoKey struct {
	kind           bundle.CargoKind
	name, platform string
}

func (k cargoKey) change(bundleName string, change Change, old, current *CargoState) CargoChange {
	return CargoChange{Bundle: bundleName, Kind: k.kind, Name: k.name, Platform: k.platform, Change: change, Old: old, New: current}
}

func stateOfCargo(b *bundle.Artifact) map[cargoKey]*CargoState {
	states := map[cargoKey]*CargoState{}
	if b == nil {
		return states
	}
	for _, item := range b.ListCargo() {
		key, state := cargoKey{item.Kind, item.Name, item.Platform}, &CargoState{Origin: item.Origin, Digest: item.Content.Digest.String(), Size: item.Content.Size}
		if item.Chart != nil {
			key.name, state.Version = item.Chart.Chart, item.Chart.Version
		}
		states[key] = state
	}
	return states
}
