package render_test

import (
	"fmt"
	"log"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/render"
)

// Mappings are merged, all else is replaced, and scalars keep what they mean to the template engine.
func ExampleValues_Override() {
	base, err := render.ParseValues("base.yaml", []byte("web: {replicas: 1, country: \"NO\"}\n"))
	if err != nil {
		log.Fatal(err)
	}
	site, err := render.ParseValues("site.yaml", []byte("web: {replicas: 3}\n"))
	if err != nil {
		log.Fatal(err)
	}
	text, err := yaml.Marshal(site.Override(base).Node())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(text))
	// Output:
	// web:
	//     replicas: 3
	//     country: "NO"
}

func ExampleParseAssignment() {
	one, err := render.ParseAssignment("web.replicas=3", true)
	if err != nil {
		log.Fatal(err)
	}
	var none *render.Values
	values, err := none.WithAssignments(one)
	if err != nil {
		log.Fatal(err)
	}
	text, err := yaml.Marshal(values.Node())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(text))
	// Output:
	// web:
	//     replicas: 3
}
