// Command runc is runc for the nodes of tests: it takes the seccomp profiles out of what
// containers are made of, and then becomes the runc next to it that is called runc-itself. That one
// is built without libseccomp, which a machine with nothing but Go and gcc does not have, and
// refuses profiles.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	err := withoutSeccomp(os.Args[1:])
	if err == nil {
		itself := filepath.Join(filepath.Dir(os.Args[0]), "runc-itself")
		err = syscall.Exec(itself, os.Args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "runc:", err)
	os.Exit(1)
}

func withoutSeccomp(args []string) error {
	for i, arg := range args {
		dir, found := strings.CutPrefix(arg, "--bundle=")
		if arg == "--bundle" && i+1 < len(args) {
			dir, found = args[i+1], true
		}
		if !found {
			continue
		}
		file := filepath.Join(dir, "config.json")
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var config map[string]any
		if err := json.Unmarshal(data, &config); err != nil {
			return err
		}
		linux, ok := config["linux"].(map[string]any)
		if !ok {
			return nil
		}
		delete(linux, "seccomp")
		if data, err = json.Marshal(config); err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o600)
	}
	return nil
}
