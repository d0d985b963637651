package deploy

import (
	"fmt"
	"slices"
	"strings"

	"carvel.dev/kapp/pkg/kapp/clusterapply"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// refuseManagedResources refuses to take over resources that another tool or a controller manages: both would
// change them.
func (e *engine) refuseManagedResources(steps []*clusterapply.ClusterChange) error {
	if e.takeOver {
		return nil
	}
	var owned []string
	for _, s := range steps {
		was := s.ClusterOriginalResource()
		if was == nil || s.ApplyOp() != clusterapply.ClusterChangeApplyOpUpdate || was.Labels()[marks.App] != "" {
			continue
		}
		if manager := marks.ManagerOf(was); manager != "" {
			owned = append(owned, fmt.Sprintf("%s belongs to %s", idOf(was), manager))
		}
	}
	if len(owned) == 0 {
		return nil
	}
	slices.Sort(owned)
	return fmt.Errorf("%w: %s", ErrOwned, strings.Join(owned, "; "))
}
