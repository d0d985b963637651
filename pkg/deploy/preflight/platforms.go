package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// Image is one that a bundle runs.
type Image struct {
	Bundle, Name string
	// Platforms are those that it is for, as OS/ARCHITECTURE; none if that is not known.
	Platforms []string
}

func (in *inspection) checkPlatforms(ctx context.Context) ([]Finding, error) {
	if len(in.images) == 0 {
		return nil, nil
	}
	nodes, err := in.cluster.Client.CoreV1().Nodes().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return []Finding{{Severity: SeverityWarning, Message: "this user may not list nodes, so their platforms are unknown"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	var have []string
	for _, n := range nodes.Items {
		platform := n.Status.NodeInfo.OperatingSystem + "/" + n.Status.NodeInfo.Architecture
		if platform != "/" && !slices.Contains(have, platform) {
			have = append(have, platform)
		}
	}
	slices.Sort(have)
	return comparePlatforms(in.images, have), nil
}

// comparePlatforms finds images that do not run on some of the nodes, or on none.
func comparePlatforms(images []Image, nodes []string) (found []Finding) {
	for _, image := range images {
		if len(image.Platforms) == 0 || len(nodes) == 0 {
			continue
		}
		var without []string
		for _, platform := range nodes {
			if !slices.Contains(image.Platforms, platform) {
				without = append(without, platform)
			}
		}
		f := Finding{Severity: SeverityWarning, Bundle: image.Bundle}
		if len(without) == len(nodes) {
			f.Severity = SeverityError
		}
		f.Message = fmt.Sprintf("image %s is for %s, but there are nodes of %s", image.Name, strings.Join(image.Platforms, ", "), strings.Join(without, ", "))
		if len(without) > 0 {
			found = append(found, f)
		}
	}
	return found
}
