package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"krtpkg.dev/krtpkg/internal/cli"
	results "krtpkg.dev/krtpkg/pkg/result"
)

// checkResult holds what a verb printed with -o json to its type, which has no other fields, and to its schema.
func checkResult(verb string, printed []byte, code int) error {
	value := results.New(verb)
	if value == nil {
		return fmt.Errorf("%s has no result", verb)
	}
	decoder := json.NewDecoder(bytes.NewReader(printed))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one document", verb)
	}
	text, err := results.Schema(verb)
	if err != nil {
		return err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("result.json", document); err != nil {
		return err
	}
	schema, err := compiler.Compile("result.json")
	if err != nil {
		return err
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(printed))
	if err != nil {
		return err
	}
	if err := schema.Validate(instance); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	var outcome results.Outcome
	if err := json.Unmarshal(printed, &outcome); err != nil {
		return err
	}
	switch {
	case code == 0 && outcome.Error != nil:
		return fmt.Errorf("%s: exit code 0, and error %+v", verb, outcome.Error)
	case code != 0 && (outcome.Error == nil || outcome.Error.ExitCode != code || outcome.Error.Message == "" || outcome.Error.Code == ""):
		return fmt.Errorf("%s: exit code %d, and error %+v", verb, code, outcome.Error)
	}
	return nil
}

// verbOf returns the verb of a command line that asks for JSON; "" for one that doesn't.
func verbOf(args []string) string {
	for i, arg := range args {
		if arg == "-o" && i+1 < len(args) && args[i+1] == "json" {
			if both := strings.Join(args[:2], " "); results.New(both) != nil {
				return both
			}
			return args[0]
		}
	}
	return ""
}

// json CODE ARGS...: runs krtpkg with -o json, which must end with an exit code and print the result of its verb.
func jsonResult(ts *testscript.TestScript, _ bool, args []string) {
	exits(ts, false, append([]string{args[0], "krtpkg"}, append(args[1:], "-o", "json")...))
	var code int
	fmt.Sscan(args[0], &code)
	ts.Check(checkResult(verbOf(append(args[1:], "-o", "json")), []byte(ts.ReadFile("stdout")), code))
}

// Every command that prints JSON has a documented result, and there are no others.
func TestEveryResultIsDocumented(t *testing.T) {
	t.Parallel()
	if printing := cli.ListPrintingVerbs(); !slices.Equal(printing, results.Verbs()) {
		t.Errorf("commands with -o json:\n%q\nverbs of pkg/result:\n%q", printing, results.Verbs())
	}
}
