package resources

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"sigs.k8s.io/yaml"
)

// kappGroup is the API group of kapp's configuration.
const kappGroup = "kapp.k14s.io"

// PreflightChecks are those of kapp that rules can configure.
var PreflightChecks = []string{"PermissionValidation", "CRDUpgradeSafety"}

// CheckRules refuses rules for kapp, of Config documents and of ConfigMaps that hold one, that kapp would refuse
// or panic with. It evaluates rules for waiting in goroutines of its own, where a panic ends the program in the
// middle of an apply.
func CheckRules(resources []kappres.Resource) error {
	for _, r := range resources {
		if err := checkConfig(r); err != nil {
			return fmt.Errorf("%s: rules for kapp: %w", describeResource(r), err)
		}
	}
	return nil
}

// readConfig returns the configuration of kapp that a resource is or holds; nil where it does not.
func readConfig(r kappres.Resource) (*kappconfig.Config, error) {
	if _, labelled := r.Labels()[kappGroup+"/config"]; labelled && r.APIGroup() != kappGroup {
		if r.APIVersion() != "v1" || r.Kind() != "ConfigMap" {
			return nil, fmt.Errorf("label %s/config is not on a ConfigMap", kappGroup)
		}
		data, _ := r.UnstructuredObject()["data"].(map[string]any)
		text, isText := data["config.yml"].(string)
		if !isText {
			return nil, errors.New("the ConfigMap has no data for config.yml")
		}
		held, err := kappres.NewResourceFromBytes([]byte(text))
		if err != nil {
			return nil, err
		}
		if held == nil {
			return nil, errors.New("config.yml is empty")
		}
		r = held
	} else if r.APIGroup() != kappGroup {
		return nil, nil
	}
	config, err := kappconfig.NewConfigFromResource(r)
	if err == nil {
		err = checkFields(r)
	}
	return &config, err
}

// checkFields refuses fields that kapp does not have and passes over without a word: the rule that was meant would
// not be there.
func checkFields(r kappres.Resource) error {
	fields := maps.Clone(r.UnstructuredObject())
	delete(fields, "metadata") // which is for names, and kapp does not read
	data, err := yaml.Marshal(fields)
	if err != nil {
		return err
	}
	// As kapp reads it: labels that are not text are taken for text.
	if err := yaml.UnmarshalStrict(data, &kappconfig.Config{}); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: json: "))
	}
	return nil
}

// checkConfig refuses a resource whose configuration of kapp has a rule that kapp cannot carry out.
func checkConfig(r kappres.Resource) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("kapp failed: %v", problem)
		}
	}()
	config, err := readConfig(r)
	if config == nil || err != nil {
		return err
	}
	for _, check := range []func(kappconfig.Config) error{checkWaitRules, checkChangingRules, checkOtherRules} {
		if err := check(*config); err != nil {
			return err
		}
	}
	return nil
}

func checkWaitRules(config kappconfig.Config) error {
	for i, rule := range config.WaitRules {
		at := fmt.Sprintf("waitRules[%d]", i)
		if err := checkMatchers(at, rule.ResourceMatchers); err != nil {
			return err
		}
		if rule.Ytt != nil && rule.Ytt.FuncContractV1 == nil {
			return fmt.Errorf("%s.ytt: no funcContractV1", at)
		}
		for _, condition := range rule.ConditionMatchers {
			if _, err := time.ParseDuration(condition.Timeout); condition.Timeout != "" && err != nil {
				return fmt.Errorf("%s: timeout %q is not a duration", at, condition.Timeout)
			}
		}
	}
	return nil
}

// checkChangingRules checks the rules that change resources, or what is compared of them.
func checkChangingRules(config kappconfig.Config) error {
	for i, rule := range config.RebaseRules {
		at := fmt.Sprintf("rebaseRules[%d]", i)
		switch {
		case rule.Ytt != nil && rule.Ytt.OverlayContractV1 == nil:
			return fmt.Errorf("%s.ytt: no overlayContractV1", at)
		case rule.Ytt == nil && rule.Type != "copy" && rule.Type != "remove":
			return fmt.Errorf("%s: no type %q: want copy or remove", at, rule.Type)
		}
		if err := checkRule(at, rule.ResourceMatchers, true, append(rule.Paths, rule.Path)...); err != nil {
			return err
		}
	}
	for i, rule := range config.DiffAgainstLastAppliedFieldExclusionRules {
		if err := checkRule(fmt.Sprintf("diffAgainstLastAppliedFieldExclusionRules[%d]", i), rule.ResourceMatchers, true, rule.Path); err != nil {
			return err
		}
	}
	for i, rule := range config.DiffAgainstExistingFieldExclusionRules {
		if err := checkRule(fmt.Sprintf("diffAgainstExistingFieldExclusionRules[%d]", i), rule.ResourceMatchers, true, rule.Path); err != nil {
			return err
		}
	}
	for i, rule := range config.OwnershipLabelRules {
		if err := checkRule(fmt.Sprintf("ownershipLabelRules[%d]", i), rule.ResourceMatchers, false, rule.Path); err != nil {
			return err
		}
	}
	for i, rule := range config.LabelScopingRules {
		if err := checkRule(fmt.Sprintf("labelScopingRules[%d]", i), rule.ResourceMatchers, false, rule.Path); err != nil {
			return err
		}
	}
	for i, rule := range config.TemplateRules {
		at := fmt.Sprintf("templateRules[%d]", i)
		if err := checkMatchers(at, rule.ResourceMatchers); err != nil {
			return err
		}
		for _, reference := range rule.AffectedResources.ObjectReferences {
			if err := checkRule(at, reference.ResourceMatchers, false, reference.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOtherRules(config kappconfig.Config) error {
	for i, rule := range config.DiffMaskRules {
		if err := checkRule(fmt.Sprintf("diffMaskRules[%d]", i), rule.ResourceMatchers, false, rule.Path); err != nil {
			return err
		}
	}
	for i, binding := range config.ChangeGroupBindings {
		if err := checkMatchers(fmt.Sprintf("changeGroupBindings[%d]", i), binding.ResourceMatchers); err != nil {
			return err
		}
	}
	for i, binding := range config.ChangeRuleBindings {
		if err := checkMatchers(fmt.Sprintf("changeRuleBindings[%d]", i), binding.ResourceMatchers); err != nil {
			return err
		}
	}
	for i, rule := range config.PreflightRules {
		if !slices.Contains(PreflightChecks, rule.Name) {
			return fmt.Errorf("preflightRules[%d]: no check %q: want %s", i, rule.Name, strings.Join(PreflightChecks, " or "))
		}
	}
	return nil
}

func checkRule(at string, matchers []kappconfig.ResourceMatcher, allowRegex bool, paths ...kappres.Path) error {
	if err := checkMatchers(at, matchers); err != nil {
		return err
	}
	for _, path := range paths {
		if err := checkPath(at, path, allowRegex); err != nil {
			return err
		}
	}
	return nil
}

// checkMatchers refuses a matcher that kapp does not know, which it would only find when it asks it.
func checkMatchers(at string, matchers []kappconfig.ResourceMatcher) (err error) {
	for _, m := range matchers {
		switch {
		case m == kappconfig.ResourceMatcher{}:
			return fmt.Errorf("%s.resourceMatchers: a matcher of no kind that kapp knows", at)
		case m.AnyMatcher != nil:
			err = checkMatchers(at, m.AnyMatcher.Matchers)
		case m.AndMatcher != nil:
			err = checkMatchers(at, m.AndMatcher.Matchers)
		case m.NotMatcher != nil:
			err = checkMatchers(at, []kappconfig.ResourceMatcher{m.NotMatcher.Matcher})
		case m.EmptyFieldMatcher != nil:
			err = checkPath(at, m.EmptyFieldMatcher.Path, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPath refuses a step of a path that kapp cannot take.
func checkPath(at string, path kappres.Path, allowRegex bool) error {
	for i, step := range path {
		problem := ""
		switch {
		case step == nil:
			problem = "is null"
		case step.MapKey != nil:
		case step.Regex != nil && !allowRegex:
			problem = "is a regex, which only rebase rules take"
		case step.Regex != nil:
			if _, err := regexp.Compile(*step.Regex.Regex); err != nil {
				problem = err.Error()
			}
		case step.ArrayIndex == nil || step.ArrayIndex.All == nil && step.ArrayIndex.Index == nil:
			problem = "is neither a key nor an index"
		case step.ArrayIndex.All == nil && *step.ArrayIndex.Index < 0:
			problem = "is a negative index"
		}
		if problem != "" {
			return fmt.Errorf("%s: path[%d] %s", at, i, problem)
		}
	}
	return nil
}
