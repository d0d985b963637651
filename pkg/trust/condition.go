package trust

import (
	"encoding/json"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
)

// maxCost bounds what a condition may do: predicates come from outside.
const maxCost = 300_000

// compileCondition compiles an expression in CEL (github.com/google/cel-spec) on the variable
// predicate; it returns nil for an empty one.
func compileCondition(expression string) (cel.Program, error) {
	if expression == "" {
		return nil, nil
	}
	env, err := cel.NewEnv(cel.Variable("predicate", cel.DynType), ext.Strings(), ext.Lists(), ext.Sets())
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		return nil, fmt.Errorf("condition: %w", issues.Err())
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("condition: returns %s, want true or false", t)
	}
	return env.Program(ast, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(1000))
}

// evaluateCondition evaluates a condition.
func evaluateCondition(program cel.Program, predicate json.RawMessage) (bool, error) {
	if program == nil {
		return true, nil
	}
	var value any
	if err := json.Unmarshal(predicate, &value); err != nil {
		return false, err
	}
	out, _, err := program.Eval(map[string]any{"predicate": value})
	if err != nil {
		return false, err
	}
	yes, isBool := out.Value().(bool)
	if !isBool {
		return false, fmt.Errorf("returned %v, want true or false", out.Value())
	}
	return yes, nil
}
