package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// systemPolicyFile is the machine policy. It applies to all users, whatever HOME and the environment
// contain; policies of users can only restrict it further.
var systemPolicyFile = "/etc/krtpkg/trust.yaml"

// systemPolicy reads the machine policy, nil if the file does not exist. It fails if users other than root can
// change the file or a file that it names.
func systemPolicy() (*trust.Policy, error) {
	if _, err := os.Lstat(systemPolicyFile); errors.Is(err, fs.ErrNotExist) {
		if err := checkSpelling(systemPolicyFile); err != nil {
			return nil, fmt.Errorf("machine policy: %w (%w)", err, trust.ErrRefused)
		}
		return nil, nil
	}
	data, err := readSystemFile(systemPolicyFile)
	if err != nil {
		return nil, fmt.Errorf("machine policy: %w", err) // it may forbid something
	}
	policy, err := trust.ParsePolicy(systemPolicyFile, data, func(file string) ([]byte, error) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(systemPolicyFile), file)
		}
		return readSystemFile(file)
	})
	if err != nil {
		return nil, fmt.Errorf("machine policy: %w (%w)", err, trust.ErrRefused)
	}
	return policy, nil
}

// readSystemFile reads a regular file that only root can change or replace. It follows symbolic links
// and checks the file, its folder and all parent folders.
func readSystemFile(name string) ([]byte, error) {
	at, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	if at, err = filepath.Abs(at); err != nil {
		return nil, err
	}
	info, err := os.Stat(at)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		err = checkFileOwner(info)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	for dir, isNearest := filepath.Dir(at), true; ; dir, isNearest = filepath.Dir(dir), false {
		info, err := os.Stat(dir)
		switch {
		case err != nil:
		case isNearest:
			err = checkFileOwner(info)
		default:
			err = checkParentOwner(info)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if dir == filepath.Dir(dir) {
			return os.ReadFile(at)
		}
	}
}
