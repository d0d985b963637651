package resources

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"sync"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// CacheParsed returns a file system whose YAML [Read] parses once, also if several goroutines read it at the same time.
// Later calls read JSON, in a fraction of the time. Each call of Read returns resources of its own. The files must
// not change.
func CacheParsed(manifests fs.FS) fs.FS {
	if _, is := manifests.(*parsedFiles); is || manifests == nil {
		return manifests
	}
	return &parsedFiles{FS: manifests}
}

// parsedFiles are manifests with their resources as JSON, which takes the least memory of what can be read fast.
type parsedFiles struct {
	fs.FS
	mu     sync.Mutex
	parsed []parsedResource // nil before the first time
}

type parsedResource struct {
	text   []byte
	origin string
}

func (p *parsedFiles) readParsed() ([]kappres.Resource, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parsed == nil {
		return p.parseFiles()
	}
	all := make([]kappres.Resource, 0, len(p.parsed))
	for _, one := range p.parsed {
		object := map[string]any{}
		if err := json.Unmarshal(one.text, &object); err != nil {
			return nil, fmt.Errorf("%s: %w", one.origin, err)
		}
		r := kappres.NewResourceUnstructured(unstructured.Unstructured{Object: object}, kappres.ResourceType{})
		r.SetOrigin(one.origin)
		all = append(all, r)
	}
	return all, nil
}

// parseFiles reads the files, and keeps what it has read unless there is an error.
func (p *parsedFiles) parseFiles() ([]kappres.Resource, error) {
	all, err := readFiles(p.FS)
	if err != nil {
		return all, err
	}
	parsed := make([]parsedResource, 0, len(all))
	for _, r := range all {
		text, err := r.AsCompactBytes()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Origin(), err)
		}
		parsed = append(parsed, parsedResource{text, r.Origin()})
	}
	p.parsed = parsed
	return all, nil
}
