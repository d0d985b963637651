package main

import "testing"

// The aims for the names of the tree: about what the models have, and better where the tree is.
const (
	minWordsPerName     = 1.9
	maxOneWordFunctions = 12.0 // percent
	maxOneWordMethods   = 15.0 // percent
	maxRepeats          = 6
)

func TestNamesMeetTheAims(t *testing.T) {
	_, total, err := measureTree("../..")
	if err != nil {
		t.Fatal(err)
	}
	if got := total.wordsPerName(); got < minWordsPerName {
		t.Errorf("words per function name: %.2f, want at least %.2f", got, minWordsPerName)
	}
	if got := total.plain.percentOneWord(); got > maxOneWordFunctions {
		t.Errorf("unexported functions of one word: %.1f %%, want at most %.1f %%", got, maxOneWordFunctions)
	}
	if got := total.methods.percentOneWord(); got > maxOneWordMethods {
		t.Errorf("unexported methods of one word: %.1f %%, want at most %.1f %%", got, maxOneWordMethods)
	}
	for _, name := range total.mostRepeated() {
		if n := total.repeats[name]; n > maxRepeats {
			t.Errorf("%d functions are called %s, want at most %d", n, name, maxRepeats)
		}
	}
}

func TestCountWords(t *testing.T) {
	for name, want := range map[string]int{"check": 1, "resolveTag": 2, "parseURL": 2, "URLParser": 2, "hasHTTP2": 2, "isOCIImage": 3} {
		if got := countWords(name); got != want {
			t.Errorf("countWords(%q) = %d, want %d", name, got, want)
		}
	}
}
