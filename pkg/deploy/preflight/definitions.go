package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"carvel.dev/kapp/pkg/kapp/crdupgradesafety"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// FindDefinitionChanges finds what a new version of a CustomResourceDefinition does to resources that exist. Where these
// lose data it is wrong; where fewer values are valid from now on, it is a warning. What cannot be compared is wrong as
// well: nobody knows then what is lost. kapp's own check refuses whatever it does not know, a field's description too, and
// with that nearly every new version of a product.
func FindDefinitionChanges(was, now kappres.Resource) []Finding {
	found, err := compareDefinitions(was, now)
	if err != nil {
		message := "cannot be compared: " + records.ShortenReason(err.Error()) + " (--skip-check " + CheckDefinitions + ")"
		return []Finding{{Severity: SeverityError, Check: CheckDefinitions, Resource: resources.IDOf(now).String(), Message: message}}
	}
	return found
}

// maxDefinitionValues is how many parts a definition has that is compared: more than an API server takes.
const maxDefinitionValues = 200_000

// compareDefinitions is [FindDefinitionChanges], with an error for a definition that cannot be read,
// that has no schema to compare, or that kapp panics over.
func compareDefinitions(was, now kappres.Resource) (findings []Finding, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			findings, err = nil, fmt.Errorf("kapp cannot compare it: %v", problem)
		}
	}()
	for _, r := range []kappres.Resource{was, now} {
		if countValues(r.UnstructuredObject()) > maxDefinitionValues {
			return nil, fmt.Errorf("more than %d values", maxDefinitionValues)
		}
	}
	var before, after apiextensionsv1.CustomResourceDefinition
	if err := errors.Join(was.AsUncheckedTypedObj(&before), now.AsUncheckedTypedObj(&after)); err != nil {
		return nil, err
	}
	if err := cmp.Or(checkSchemas("old", before), checkSchemas("new", after)); err != nil {
		return nil, err
	}
	f := Finding{Check: CheckDefinitions, Resource: resources.IDOf(now).String()}
	if lost := findLosses(before, after); lost != "" {
		f.Severity, f.Message = SeverityError, lost+": resources that exist lose data (--skip-check "+CheckDefinitions+")"
		findings = append(findings, f)
	}
	if unserved := findUnserved(before, after); len(unserved) > 0 {
		f.Severity, f.Message = SeverityWarning, "no longer served: "+strings.Join(unserved, ", ")+"; who still uses it fails"
		findings = append(findings, f)
	}
	if narrowed := findNarrowed(before, after); len(narrowed) > 0 {
		f.Severity, f.Message = SeverityWarning, "fewer values are valid: "+strings.Join(narrowed[:min(len(narrowed), maxNarrowed)], "; ")
		if more := len(narrowed) - maxNarrowed; more > 0 {
			f.Message += fmt.Sprintf("; and %d more", more)
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// checkSchemas returns an error if a version of a definition has no schema.
func checkSchemas(side string, definition apiextensionsv1.CustomResourceDefinition) error {
	for _, v := range definition.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			return fmt.Errorf("version %q of the %s definition has no schema", v.Name, side)
		}
	}
	return nil
}

// countValues returns how many values an object has with all that is in it.
func countValues(value any) int {
	n := 1
	switch v := value.(type) {
	case map[string]any:
		for _, one := range v {
			n += countValues(one)
		}
	case []any:
		for _, one := range v {
			n += countValues(one)
		}
	}
	return n
}

// findUnserved returns the versions that were served and are not any more.
func findUnserved(before, after apiextensionsv1.CustomResourceDefinition) (names []string) {
	for _, was := range before.Spec.Versions {
		isServed := slices.ContainsFunc(after.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
			return v.Name == was.Name && v.Served
		})
		if was.Served && !isServed {
			names = append(names, was.Name)
		}
	}
	return names
}

// maxNarrowed is how many fields a warning names.
const maxNarrowed = 3

// findLosses returns what of a definition's change loses data; "" for nothing.
func findLosses(before, after apiextensionsv1.CustomResourceDefinition) string {
	err := errors.Join(crdupgradesafety.NoScopeChange(before, after), crdupgradesafety.NoStoredVersionRemoved(before, after),
		crdupgradesafety.NoExistingFieldRemoved(before, after))
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// narrowings find, field by field, where fewer values are valid, or others come by themselves.
var narrowings = []crdupgradesafety.ChangeValidation{
	changeOfType,
	crdupgradesafety.EnumChangeValidation, crdupgradesafety.RequiredFieldChangeValidation, crdupgradesafety.DefaultValueChangeValidation,
	crdupgradesafety.MinimumChangeValidation, crdupgradesafety.MinimumItemsChangeValidation,
	crdupgradesafety.MinimumLengthChangeValidation, crdupgradesafety.MinimumPropertiesChangeValidation,
	crdupgradesafety.MaximumChangeValidation, crdupgradesafety.MaximumItemsChangeValidation,
	crdupgradesafety.MaximumLengthChangeValidation, crdupgradesafety.MaximumPropertiesChangeValidation,
}

func changeOfType(d crdupgradesafety.FieldDiff) (bool, error) {
	if d.Old.Type != d.New.Type && !d.New.XIntOrString {
		return true, fmt.Errorf("type changed from %q to %q", d.Old.Type, d.New.Type)
	}
	return false, nil
}

func findNarrowed(before, after apiextensionsv1.CustomResourceDefinition) (all []string) {
	for _, was := range before.Spec.Versions {
		i := slices.IndexFunc(after.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == was.Name })
		if i < 0 || was.Schema == nil || after.Spec.Versions[i].Schema == nil {
			continue
		}
		flat := crdupgradesafety.FlattenSchema(was.Schema.OpenAPIV3Schema)
		// A field that is removed is an error, and in findLosses.
		next := crdupgradesafety.FlattenSchema(after.Spec.Versions[i].Schema.OpenAPIV3Schema)
		maps.DeleteFunc(flat, func(field string, _ *apiextensionsv1.JSONSchemaProps) bool { return next[field] == nil })
		changed, err := crdupgradesafety.CalculateFlatSchemaDiff(flat, next)
		if err != nil {
			continue
		}
		for _, field := range slices.Sorted(maps.Keys(changed)) {
			for _, narrows := range narrowings {
				if _, err := narrows(changed[field]); err != nil {
					all = append(all, fmt.Sprintf("%s of %s: %v", strings.TrimPrefix(field, "^."), was.Name, err))
				}
			}
		}
	}
	return all
}
