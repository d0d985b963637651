package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// systemPolicyFile is the policy of the machine. It counts for everyone, wherever HOME and the
// environment lead; what users have besides can only refuse more.
var systemPolicyFile = "/etc/krtpkg/trust.yaml"

// systemPolicy reads the policy of the machine; nil if the file does not exist. Users other than root must not be able
// to change it, nor a file that it names.
func systemPolicy() (*trust.Policy, error) {
	if _, err := os.Lstat(systemPolicyFile); errors.Is(err, fs.ErrNotExist) {
		if err := checkSpelling(systemPolicyFile); err != nil {
			return nil, fmt.Errorf("trust policy of the machine: %w (%w)", err, trust.ErrRefused)
		}
		return nil, nil
	}
	data, err := readOwned(systemPolicyFile)
	if err != nil {
		return nil, fmt.Errorf("trust policy of the machine: %w", err) // it may forbid something
	}
	policy, err := trust.ParsePolicy(systemPolicyFile, data, func(file string) ([]byte, error) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(systemPolicyFile), file)
		}
		return readOwned(file)
	})
	if err != nil {
		return nil, fmt.Errorf("trust policy of the machine: %w (%w)", err, trust.ErrRefused)
	}
	return policy, nil
}

// readOwned reads a regular file that nobody but the administrator can change or replace: itself, its
// folder, and those above, through whatever links lead there.
func readOwned(name string) ([]byte, error) {
	at, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	if at, err = filepath.Abs(at); err != nil {
		return nil, err
	}
	info, err := os.Stat(at)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil {
		err = ownedBySystem(info)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	for dir, isNearest := filepath.Dir(at), true; ; dir, isNearest = filepath.Dir(dir), false {
		info, err := os.Stat(dir)
		switch {
		case err != nil:
		case isNearest:
			err = ownedBySystem(info)
		default:
			err = keptBySystem(info)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if dir == filepath.Dir(dir) {
			return os.ReadFile(at)
		}
	}
}
