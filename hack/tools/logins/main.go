// Command logins prints who docker and Podman are at repositories, by the code that reads their
// login files: docker's command line, and the image library of skopeo, Podman and CRI-O.
//
//	logins HOST/PATH...
//
// It prints one line of JSON for each.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	cliconfig "github.com/docker/cli/cli/config"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"
)

// login is what a client would send.
type login struct {
	Username, Password, IdentityToken, Error string
}

func main() {
	encoder := json.NewEncoder(os.Stdout)
	for _, repository := range os.Args[1:] {
		line := map[string]login{"docker": docker(repository), "podman": podman(repository)}
		if err := encoder.Encode(line); err != nil {
			fmt.Fprintln(os.Stderr, "logins:", err)
			os.Exit(1)
		}
	}
}

func docker(repository string) login {
	host, _, _ := strings.Cut(repository, "/")
	if host == "docker.io" {
		host = "https://index.docker.io/v1/" // as docker has it
	}
	file, err := cliconfig.Load(os.Getenv("DOCKER_CONFIG"))
	if err != nil {
		return login{Error: err.Error()}
	}
	found, err := file.GetAuthConfig(host)
	if err != nil {
		return login{Error: err.Error()}
	}
	return login{Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken}
}

func podman(repository string) login {
	found, err := config.GetCredentials(&types.SystemContext{
		AuthFilePath:             os.Getenv("REGISTRY_AUTH_FILE"),
		SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: os.TempDir() + "/no-such-folder",
	}, repository)
	if err != nil {
		return login{Error: err.Error()}
	}
	return login{Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken}
}
