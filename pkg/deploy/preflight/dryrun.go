package preflight

import (
	"fmt"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// Refusal is a dry run that the API server has refused.
type Refusal struct {
	Resource kappres.Resource
	// IsCreate tells a creation from an update.
	IsCreate bool
	Err      error
}

// RuntimeProvides is what a runtime creates that a dry run does not see yet. The zero value provides nothing.
type RuntimeProvides struct {
	// Namespaces are those that it creates.
	Namespaces sets.Set[string]
	// Kinds are those whose definitions it has.
	Kinds sets.Set[schema.GroupKind]
}

// Judge decides what the refusal means for the apply. It reports false if it means nothing.
func (r Refusal) Judge(provided RuntimeProvides) (Finding, bool) {
	err, namespace := r.Err, r.Resource.Namespace()
	f := Finding{Severity: SeverityError, Check: CheckDryRun, Resource: resources.IDOf(r.Resource).String(), Message: refusalText(err)}
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return f, false // it changes just now; kapp tries again
	case strings.Contains(err.Error(), "does not support dry run"), apierrors.IsMethodNotSupported(err):
		return f, false
	case apierrors.IsNotFound(err) && provided.Namespaces.Has(namespace):
		return f, false
	case apierrors.IsNotFound(err) && r.IsCreate && namespaceIsMissing(err, namespace):
		f.Message = fmt.Sprintf("namespace %s does not exist, and no bundle creates it", namespace)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		if provided.Kinds.Has(r.Resource.GroupKind()) {
			f.Severity = SeverityWarning // its definition may be about to change
		}
	case strings.Contains(err.Error(), "admission webhook") && strings.Contains(err.Error(), "denied the request"),
		strings.Contains(err.Error(), "exceeded quota"), strings.Contains(err.Error(), "is being terminated"):
	case apierrors.IsForbidden(err) && !r.IsCreate:
	default: // what it refers to may come with the runtime; a webhook may be down for the moment
		f.Severity = SeverityWarning
	}
	return f, true
}

func namespaceIsMissing(err error, namespace string) bool {
	return strings.Contains(err.Error(), fmt.Sprintf("namespaces %q not found", namespace))
}

// refusalText returns what the API server says, without the values that it quotes: a Secret's among them.
func refusalText(err error) string {
	status, is := err.(apierrors.APIStatus)
	if !is || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return records.ShortenReason(err.Error())
	}
	var causes []string
	for _, cause := range status.Status().Details.Causes {
		causes = append(causes, records.ShortenReason(strings.TrimSpace(cause.Field+": "+withoutQuotedValue(cause.Message))))
	}
	return strings.Join(causes, "; ")
}

// withoutQuotedValue shortens "Invalid value: {…}: field is immutable" to what follows the value.
func withoutQuotedValue(message string) string {
	prefix, rest, found := strings.Cut(message, ": ")
	if !found || prefix != "Invalid value" && prefix != "Unsupported value" {
		return message
	}
	if i := strings.LastIndex(rest, ": "); i >= 0 && len(rest) > 80 {
		return prefix + ": " + rest[i+2:]
	}
	return message
}
