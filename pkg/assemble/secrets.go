package assemble

import (
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// secretValue is a key whose value is a secret itself, not the name of one.
var secretValue = lazyregexp.New(`(?i)(password|passphrase|token|apiKey|secretKey|accessKey|privateKey|clientSecret)$`)

// findSecretValues returns the paths of values that set a secret, "auth.password".
func findSecretValues(node *yaml.Node) (found []string) {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i].Value, node.Content[i+1]
		if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!str" && value.Value != "" && secretValue.MatchString(key) {
			found = append(found, key)
		}
		for _, inner := range findSecretValues(value) {
			found = append(found, key+"."+inner)
		}
	}
	return found
}

// findLine returns the line of a value by its path, as [findSecretValues] has it; 0 if it is not there.
func findLine(node *yaml.Node, keys string) int {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value == keys {
			return key.Line
		}
		if rest, below := strings.CutPrefix(keys, key.Value+"."); below && value.Kind == yaml.MappingNode {
			if line := findLine(value, rest); line > 0 {
				return line
			}
		}
	}
	return 0
}
