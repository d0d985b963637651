package merge

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"reflect"
	"slices"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

const (
	// annotationsLimit is Kubernetes' for all annotations of an object.
	annotationsLimit = 256 << 10
	// annotationsReserve is left for annotations that others add.
	annotationsReserve = 8 << 10
	// longString is from which length on a string is recorded as its digest.
	longString = 128
	// outlineLimit bounds what is unpacked of a record, which others may have changed.
	outlineLimit = 8 << 20
)

// RecordApplied marks a resource, which is about to be applied, with the way in which its manifest is recorded on the
// object. kapp keeps the manifest in the annotation kapp.k14s.io/original. For a Secret that would show its values in
// kubectl describe, and a manifest of more than about 200 KiB does not fit into annotations. For these krtpkg records an
// outline instead: of a Secret the names of its keys, of others the manifest with digests in place of long strings.
func RecordApplied(r kappres.Resource) error {
	object := r.UnstructuredObject()
	isSecret := r.Kind() == "Secret" && r.APIGroup() == ""
	if isSecret {
		encodeStringData(object)
		dropNullData(object)
	}
	compact, err := r.AsCompactBytes()
	if err != nil {
		return err
	}
	others := 0
	for key, value := range r.Annotations() {
		others += len(key) + len(value)
	}
	if !isSecret && len(compact)+others < annotationsLimit-annotationsReserve {
		return nil
	}
	u := unstructured.Unstructured{Object: object}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	packed, err := packOutline(outlineOf(object, isSecret))
	if err != nil {
		return err
	}
	annotations[marks.DisableOriginal] = ""
	if len(packed)+others < annotationsLimit-annotationsReserve {
		annotations[marks.Applied] = packed
	}
	u.SetAnnotations(annotations)
	return nil
}

// encodeStringData moves what a Secret has in stringData to data, where the API server puts it.
func encodeStringData(secret map[string]any) {
	plain, found := secret["stringData"].(map[string]any)
	if !found {
		return
	}
	data, isMap := secret["data"].(map[string]any)
	if !isMap {
		data = map[string]any{}
	}
	for key, value := range plain {
		text, isString := value.(string)
		if !isString {
			return // the API server's to refuse
		}
		data[key] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	delete(secret, "stringData")
	secret["data"] = data
}

// dropNullData removes keys of a Secret without a value, as the API server does.
func dropNullData(secret map[string]any) {
	data, isMap := secret["data"].(map[string]any)
	if !isMap {
		return
	}
	before := len(data)
	maps.DeleteFunc(data, func(_ string, value any) bool { return value == nil })
	if len(data) == 0 && before > 0 {
		delete(secret, "data")
	}
}

// digestKey is the key of the only field of a map that stands for a string.
const digestKey = "$sha256"

// outlineOf returns a manifest without long strings and, of Secrets, without any value.
func outlineOf(object map[string]any, isSecret bool) map[string]any {
	outline := outlineValue(object).(map[string]any)
	if data, found := object["data"].(map[string]any); found && isSecret {
		keys := map[string]any{}
		for key := range data {
			keys[key] = nil
		}
		outline["data"] = keys
	}
	return outline
}

func outlineValue(value any) any {
	switch value := value.(type) {
	case map[string]any:
		outline := make(map[string]any, len(value))
		for key, v := range value {
			outline[key] = outlineValue(v)
		}
		return outline
	case []any:
		outline := make([]any, len(value))
		for i, v := range value {
			outline[i] = outlineValue(v)
		}
		return outline
	case string:
		if len(value) > longString {
			return map[string]any{digestKey: digestText(value)}
		}
	}
	return value
}

// changedText stands for a string that is not the one that was applied.
const changedText = "(changed)"

// ExpandOutline returns the manifest of an outline, with the live object's strings where these are known to be the
// applied ones. A value of a Secret counts as changed if someone else has written it since krtpkg last wrote the Secret.
func ExpandOutline(outline, live map[string]any) map[string]any {
	manifest := expandValue(outline, live).(map[string]any)
	u := unstructured.Unstructured{Object: manifest}
	annotations := u.GetAnnotations() // none where the manifest has null
	if annotations == nil {
		annotations = map[string]string{}
	}
	now := (&unstructured.Unstructured{Object: live}).GetAnnotations()
	for _, key := range []string{marks.Applied, marks.DisableOriginal} {
		if value, found := now[key]; found {
			annotations[key] = value
		}
	}
	u.SetAnnotations(annotations)
	if keys, isMap := outline["data"].(map[string]any); isMap && manifest["kind"] == "Secret" {
		data := map[string]any{}
		now, _ := live["data"].(map[string]any)
		others := laterOwners(live).fieldsBelow("data")
		for key := range keys {
			value, found := now[key]
			if !found || others.hasField(key) {
				value = base64.StdEncoding.EncodeToString([]byte(changedText))
			}
			data[key] = value
		}
		manifest["data"] = data
	}
	return manifest
}

func expandValue(outline, live any) any {
	switch outline := outline.(type) {
	case map[string]any:
		if len(outline) == 1 && outline[digestKey] != nil {
			if equalRecorded(live, outline) {
				return live
			}
			return changedText
		}
		now, _ := live.(map[string]any)
		manifest := make(map[string]any, len(outline))
		for key, v := range outline {
			manifest[key] = expandValue(v, now[key])
		}
		return manifest
	case []any:
		now, _ := live.([]any)
		manifest := make([]any, len(outline))
		for i, v := range outline {
			var item any
			if i < len(now) {
				item = now[i]
			}
			manifest[i] = expandValue(v, item)
		}
		return manifest
	}
	return outline
}

func digestText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// equalRecorded reports whether a value is the one that a record has, or a digest of.
func equalRecorded(value, recorded any) bool {
	if outline, isMap := recorded.(map[string]any); isMap && len(outline) == 1 && outline[digestKey] != nil {
		text, isString := value.(string)
		return isString && outline[digestKey] == digestText(text)
	}
	switch recorded := recorded.(type) {
	case map[string]any:
		value, isMap := value.(map[string]any)
		return isMap && len(value) == len(recorded) && !slices.ContainsFunc(slices.Collect(maps.Keys(recorded)), func(key string) bool {
			v, found := value[key]
			return !found || !equalRecorded(v, recorded[key])
		})
	case []any:
		value, isList := value.([]any)
		if !isList || len(value) != len(recorded) {
			return false
		}
		for i := range recorded {
			if !equalRecorded(value[i], recorded[i]) {
				return false
			}
		}
		return true
	}
	return equalScalars(value, recorded)
}

func packOutline(outline map[string]any) (string, error) {
	data, err := json.Marshal(outline)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(data) // to memory
	_ = z.Close()
	return base64.StdEncoding.EncodeToString(packed.Bytes()), nil
}

// unpackOutline returns nil for what is not a record.
func unpackOutline(text string) map[string]any {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	plain, err := io.ReadAll(io.LimitReader(z, outlineLimit))
	if err != nil {
		return nil
	}
	u := unstructured.Unstructured{}
	if err := u.UnmarshalJSON(plain); err != nil {
		return nil
	}
	return u.Object
}

// AppliedManifest returns what is recorded on an object of the manifest that was last applied: the manifest, or its
// outline. It returns nil if nothing is recorded, or nothing that can be read.
func AppliedManifest(live map[string]any) map[string]any {
	annotations := (&unstructured.Unstructured{Object: live}).GetAnnotations()
	if original := annotations[marks.Original]; original != "" {
		return decodeManifest(original)
	}
	if packed := annotations[marks.Applied]; packed != "" {
		return unpackOutline(packed)
	}
	return nil
}

// kubectlManifest returns what kubectl apply has left on an object that nobody else manages.
func kubectlManifest(live map[string]any) map[string]any {
	annotations := (&unstructured.Unstructured{Object: live}).GetAnnotations()
	return decodeManifest(annotations["kubectl.kubernetes.io/last-applied-configuration"])
}

func decodeManifest(text string) map[string]any {
	u := unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		return nil
	}
	return u.Object
}

// keepEqualRecord leaves the record on an object as it is if it says the same: how it is
// compressed may differ from one version of krtpkg to the next.
func keepEqualRecord(live, merged map[string]any) {
	was := (&unstructured.Unstructured{Object: live}).GetAnnotations()[marks.Applied]
	u := unstructured.Unstructured{Object: merged}
	annotations := u.GetAnnotations()
	now := annotations[marks.Applied]
	if was != "" && now != "" && was != now && reflect.DeepEqual(unpackOutline(was), unpackOutline(now)) {
		annotations[marks.Applied] = was
		u.SetAnnotations(annotations)
	}
}
