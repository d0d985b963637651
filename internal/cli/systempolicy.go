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

// systemPolicy reads the policy of the machine; nil where there is none. Who is not root must not be able
// to change it.
func systemPolicy() (*trust.Policy, error) {
	switch _, err := os.Stat(systemPolicyFile); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("trust policy of the machine: %w", err) // it may forbid something
	}
	for _, name := range []string{systemPolicyFile, filepath.Dir(systemPolicyFile)} {
		info, err := os.Stat(name)
		if err == nil {
			err = ownedBySystem(info)
		}
		if err != nil {
			return nil, fmt.Errorf("trust policy of the machine: %s: %w", name, err)
		}
	}
	return trust.LoadPolicy(systemPolicyFile)
}
