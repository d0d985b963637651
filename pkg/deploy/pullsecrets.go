package deploy

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// PullSecret is a Secret with logins to registries.
type PullSecret struct {
	Namespace, Name string
	// Config is a docker config (the JSON of config.json), as it is in the Secret.
	Config []byte
}

// PullSecrets returns the logins that the nodes would pull a runtime's images with: the pull secrets of its pods and of their service accounts, from the
// cluster, or from the runtime itself. What this user may not read is left out, as is what is not
// there.
func (c *Cluster) PullSecrets(ctx context.Context, rt Runtime) ([]PullSecret, error) {
	// Pods are where an apply puts them.
	s := &session{cluster: c, engine: &engine{cluster: c, served: &servedKinds{}}}
	units, err := s.placeResources(ctx, rt.Units)
	if err != nil {
		return nil, err
	}
	p := pullReferences{secrets: map[objectName][]byte{}, accounts: map[objectName][]string{}, wanted: map[objectName]bool{}, by: map[objectName]bool{}}
	for _, u := range units {
		resources, err := readResources(u.Manifests)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: u.Bundle, Layer: u.Layer, Err: err}
		}
		for _, r := range resources {
			p.addObject(r.Kind(), objectName{cmp.Or(r.Namespace(), c.namespace), r.Name()}, r.DeepCopyRaw())
		}
	}
	for account := range p.by {
		names, ours := p.accounts[account]
		if !ours {
			there, err := c.client.CoreV1().ServiceAccounts(account.namespace).Get(apiserver.WithoutLogs(ctx), account.name, metav1.GetOptions{})
			if isUnreadable(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("get service account %s in namespace %s: %w", account.name, account.namespace, err)
			}
			names = referenceNames(there.ImagePullSecrets)
		}
		for _, name := range names {
			p.wanted[objectName{account.namespace, name}] = true
		}
	}
	var logins []PullSecret
	for _, at := range sortedNames(p.wanted) {
		login, ours := p.secrets[at]
		if !ours {
			there, err := c.client.CoreV1().Secrets(at.namespace).Get(apiserver.WithoutLogs(ctx), at.name, metav1.GetOptions{})
			if isUnreadable(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("get secret %s in namespace %s: %w", at.name, at.namespace, err)
			}
			login = dockerConfig(there.Data)
		}
		if login != nil {
			logins = append(logins, PullSecret{at.namespace, at.name, login})
		}
	}
	return logins, nil
}

// isUnreadable reports whether there is nothing, or nothing for this user.
func isUnreadable(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) }

// objectName is an object of a namespace.
type objectName struct{ namespace, name string }

// pullReferences is what a runtime's manifests say of how its images are pulled.
type pullReferences struct {
	secrets  map[objectName][]byte   // logins that the runtime brings
	accounts map[objectName][]string // pull secrets of service accounts that it brings
	wanted   map[objectName]bool     // pull secrets of its pods
	by       map[objectName]bool     // service accounts of its pods
}

func (p *pullReferences) addObject(kind string, at objectName, raw map[string]any) {
	switch kind {
	case "Secret":
		data := map[string][]byte{}
		for key, value := range textValues(raw["data"]) {
			data[key], _ = base64.StdEncoding.DecodeString(value)
		}
		for key, value := range textValues(raw["stringData"]) {
			data[key] = []byte(value)
		}
		p.secrets[at] = dockerConfig(data)
	case "ServiceAccount":
		p.accounts[at] = namesOf(raw["imagePullSecrets"])
	default:
		p.addPodSpecs(at.namespace, raw)
	}
}

// addPodSpecs looks for pods' specs anywhere in a value: what has containers.
func (p *pullReferences) addPodSpecs(namespace string, value any) {
	switch v := value.(type) {
	case map[string]any:
		if _, is := v["containers"].([]any); is {
			for _, name := range namesOf(v["imagePullSecrets"]) {
				p.wanted[objectName{namespace, name}] = true
			}
			account, _ := v["serviceAccountName"].(string)
			if account == "" {
				account = "default"
			}
			p.by[objectName{namespace, account}] = true
		}
		for _, inner := range v {
			p.addPodSpecs(namespace, inner)
		}
	case []any:
		for _, inner := range v {
			p.addPodSpecs(namespace, inner)
		}
	}
}

// textValues returns the texts of a mapping.
func textValues(value any) map[string]string {
	all := map[string]string{}
	mapping, _ := value.(map[string]any)
	for key, v := range mapping {
		if text, is := v.(string); is {
			all[key] = text
		}
	}
	return all
}

// namesOf returns the names of a list of references.
func namesOf(value any) (names []string) {
	list, _ := value.([]any)
	for _, entry := range list {
		if name := textValues(entry)["name"]; name != "" {
			names = append(names, name)
		}
	}
	return names
}

func referenceNames(list []corev1.LocalObjectReference) (names []string) {
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

// dockerConfig returns the login in a Secret's data, or nil. The older form is what is below auths in the
// newer one.
func dockerConfig(data map[string][]byte) []byte {
	if config := data[corev1.DockerConfigJsonKey]; config != nil {
		return config
	}
	old := data[corev1.DockerConfigKey]
	if !json.Valid(old) {
		return nil
	}
	return slices.Concat([]byte(`{"auths":`), old, []byte(`}`))
}

func sortedNames(set map[objectName]bool) []objectName {
	return slices.SortedFunc(maps.Keys(set), func(a, b objectName) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
}
