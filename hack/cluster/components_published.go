//go:build published

package main

// components are what nobody publishes with a digest; the others are in the folder of --components.
var components = map[string]func() error{"kwok": runKWOK}
