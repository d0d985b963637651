package resources

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/diffgraph"
	"carvel.dev/kapp/pkg/kapp/logger"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"carvel.dev/kapp/pkg/kapp/version"
	"k8s.io/apimachinery/pkg/util/validation"
)

// kappVersion is the version of kapp in go.mod.
const kappVersion = "v0.64.2"

// What is mended of kapp here is for the whole process:
//
// It takes groups with long names, as those of CustomResourceDefinitions of a long group and kind are: it leaves
// that problem out by its text, which a newer apimachinery words otherwise in one place.
//
// It knows its version from the program's build information. A program without, such as a test, has "develop", by
// which no minimumRequiredVersion can be read.
func init() {
	if version.Version == "develop" {
		version.Version = kappVersion
	}
	check := validation.IsQualifiedName
	validation.IsQualifiedName = func(name string) []string {
		problems := check(name)
		for i, problem := range problems {
			problems[i] = strings.Replace(problem, "bytes", "characters", 1)
		}
		return problems
	}
}

// strategies are the annotations by which a resource chooses how kapp writes it, and what kapp takes for them.
var strategies = map[string][]string{
	kappGroup + "/create-strategy":                   {"", "fallback-on-update", "fallback-on-update-or-noop"},
	kappGroup + "/update-strategy":                   {"", "fallback-on-replace", "always-replace", "skip"},
	kappGroup + "/delete-strategy":                   {"", "orphan"},
	kappGroup + "/disable-associated-resources-wait": {""},
}

// checkAnnotations refuses annotations that kapp would refuse, some of them in the middle of an apply.
func checkAnnotations(r kappres.Resource) error {
	annotations := r.Annotations()
	for _, name := range slices.Sorted(maps.Keys(strategies)) {
		allowed := strategies[name]
		if value, is := annotations[name]; is && !slices.Contains(allowed, value) {
			return fmt.Errorf("%s is %q: want %s", name, value, strings.Join(quoteAll(allowed), " or "))
		}
	}
	if value, is := annotations[kappGroup+"/renew-duration"]; is {
		if _, err := time.ParseDuration(value); err != nil {
			return fmt.Errorf("%s/renew-duration is %q: want a duration, as 24h", kappGroup, value)
		}
	}
	value, is := annotations[kappGroup+"/num-versions"]
	if _, versioned := annotations[kappGroup+"/versioned"]; is && versioned {
		if n, err := strconv.Atoi(value); err != nil || n < 1 {
			return fmt.Errorf("%s/num-versions is %q: want a number above 0", kappGroup, value)
		}
	}
	if !isOrdered(r) {
		return nil
	}
	// Groups are read where there is a rule.
	some := kappconfig.ChangeRuleBinding{
		Rules: []string{"upsert after upserting krtpkg.dev/none"}, ResourceMatchers: []kappconfig.ResourceMatcher{{AllMatcher: &kappconfig.AllMatcher{}}},
	}
	return orderChanges([]kappres.Resource{r}, nil, []kappconfig.ChangeRuleBinding{some})
}

func quoteAll(texts []string) (quoted []string) {
	for _, text := range texts {
		quoted = append(quoted, strconv.Quote(text))
	}
	return quoted
}

// checkOrder refuses rules of resources, and of the configuration among them, that leave kapp no order. Rules of kapp's
// own give way to others.
func checkOrder(all []kappres.Resource) error {
	others, conf, err := kappconfig.NewConfFromResourcesWithDefaults(all)
	if err != nil {
		return err
	}
	return orderChanges(others, conf.ChangeGroupBindings(), conf.ChangeRuleBindings())
}

// orderChanges has kapp order the creation of resources.
func orderChanges(all []kappres.Resource, groups []kappconfig.ChangeGroupBinding, rules []kappconfig.ChangeRuleBinding) error {
	changes := make([]diffgraph.ActualChange, len(all))
	for i, r := range all {
		if r.Namespace() == "" {
			r = r.DeepCopy()
			r.SetNamespace("default") // as at the site, where rules name it
		}
		changes[i] = creation{ShortenDefinition(r)}
	}
	_, err := diffgraph.NewChangeGraph(changes, groups, rules, logger.NewNoopLogger())
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "Change graph: Calculating required deps: "))
	}
	return nil
}

// creation is a resource that is to be created.
type creation struct{ resource kappres.Resource }

func (c creation) Resource() kappres.Resource { return c.resource }

func (creation) Op() diffgraph.ActualChangeOp { return diffgraph.ActualChangeOpUpsert }

// isOrdered reports whether a resource has rules or configuration that bear on the order.
func isOrdered(r kappres.Resource) bool {
	if _, labelled := r.Labels()[kappGroup+"/config"]; labelled || r.APIGroup() == kappGroup {
		return true
	}
	for name := range r.Annotations() {
		if strings.HasPrefix(name, kappGroup+"/change-") {
			return true
		}
	}
	return false
}
