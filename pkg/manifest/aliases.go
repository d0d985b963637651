package manifest

import (
	"bytes"

	"gopkg.in/yaml.v3"
)

// maxExpanded is how many nodes aliases may add to a document: whoever reads it puts what they
// lead to in their place, and a few lines can stand for more than any memory holds.
const maxExpanded = 1_000_000

// checkAliases counts what a document is when its aliases are expanded, without expanding them.
func (f *File) checkAliases(root *yaml.Node) error {
	e := aliasExpansion{file: f, sizes: map[*yaml.Node]int{}, open: map[*yaml.Node]bool{}}
	_, err := e.countNodes(root)
	return err
}

// CheckAliases refuses YAML with an alias that stands within its own anchor or for endlessly much, in
// documents and in texts that are YAML themselves: kustomize follows such an alias until the program
// has no memory left, which nothing can recover from. What is not YAML is no error here.
func CheckAliases(name string, data []byte) error {
	if !bytes.Contains(data, []byte("*")) || !bytes.Contains(data, []byte("&")) {
		return nil
	}
	f := &File{Name: name, positionIndex: positionIndex{data: data}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc, err := decodeDocument(decoder)
		if err != nil {
			return nil
		}
		if err := f.checkAliases(&doc); err != nil {
			return err
		}
		if err := checkTexts(name, &doc, len(data)); err != nil {
			return err
		}
	}
}

// checkTexts looks at texts that are shorter than the YAML that holds them: a scalar can be all of it.
func checkTexts(name string, node *yaml.Node, shorter int) error {
	if node.Kind == yaml.ScalarNode && len(node.Value) < shorter {
		return CheckAliases(name, []byte(node.Value))
	}
	for _, child := range node.Content {
		if err := checkTexts(name, child, shorter); err != nil {
			return err
		}
	}
	return nil
}

type aliasExpansion struct {
	file  *File
	sizes map[*yaml.Node]int  // of the anchors that are counted
	open  map[*yaml.Node]bool // the anchors that are being counted
}

// countNodes returns the number of nodes at and below one.
func (e *aliasExpansion) countNodes(node *yaml.Node) (int, error) {
	if node.Kind == yaml.AliasNode {
		if e.open[node.Alias] {
			return 0, e.file.Errorf(node, "alias *%s is inside its own anchor", node.Value)
		}
		if size, known := e.sizes[node.Alias]; known {
			return size, nil
		}
		return e.countNodes(node.Alias)
	}
	if node.Anchor != "" {
		e.open[node] = true
		defer delete(e.open, node)
	}
	total := 1
	for _, child := range node.Content {
		size, err := e.countNodes(child)
		if err != nil {
			return 0, err
		}
		// A document without aliases has fewer nodes than bytes.
		if total += size; total > maxExpanded+len(e.file.data) {
			return 0, e.file.Errorf(node, "aliases expand to more than %d values", maxExpanded)
		}
	}
	if node.Anchor != "" {
		e.sizes[node] = total
	}
	return total, nil
}
