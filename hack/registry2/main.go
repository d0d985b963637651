// Command registry2 is Distribution 2.8, the registry that much of the world still runs,
// for tests. It is the unchanged application behind the least server that will carry it:
// the upstream command also wants error reporting services, Let's Encrypt and six clouds'
// storage drivers, in versions from 2015 that no longer build.
//
// It takes upstream's arguments, "serve config.yml", and of upstream's configuration
// everything but log formatting, debug server and reporting.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/docker/distribution/configuration"
	"github.com/docker/distribution/context"
	"github.com/docker/distribution/registry/handlers"
	"github.com/docker/distribution/registry/storage"
	"github.com/docker/distribution/registry/storage/driver/factory"
	"github.com/docker/distribution/version"
	"github.com/sirupsen/logrus"

	_ "github.com/docker/distribution/registry/auth/htpasswd"
	_ "github.com/docker/distribution/registry/auth/token"
	_ "github.com/docker/distribution/registry/storage/driver/filesystem"
	_ "github.com/docker/distribution/registry/storage/driver/inmemory"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "registry2:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println(version.Package, version.Version)
		return nil
	case len(args) == 2 && args[0] == "serve":
		config, err := load(args[1])
		if err != nil {
			return err
		}
		return serve(config)
	case len(args) == 2 && args[0] == "garbage-collect":
		config, err := load(args[1])
		if err != nil {
			return err
		}
		return collectGarbage(config)
	}
	return errors.New("usage: registry2 serve CONFIG | registry2 garbage-collect CONFIG | registry2 --version")
}

// collectGarbage removes the blobs that no manifest names, as upstream's command does.
func collectGarbage(config *configuration.Configuration) error {
	ctx := context.Background()
	driver, err := factory.Create(config.Storage.Type(), config.Storage.Parameters())
	if err != nil {
		return err
	}
	registry, err := storage.NewRegistry(ctx, driver)
	if err != nil {
		return err
	}
	return storage.MarkAndSweep(ctx, driver, registry, storage.GCOpts{})
}

func load(path string) (*configuration.Configuration, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	config, err := configuration.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

func serve(config *configuration.Configuration) error {
	level, err := logrus.ParseLevel(string(config.Log.Level))
	if err != nil {
		return err
	}
	logrus.SetLevel(level)
	// NewApp panics when the configuration is wrong: upstream's way to end the program too.
	app := handlers.NewApp(context.WithVersion(context.Background(), version.Version), config)
	listener, err := net.Listen("tcp", config.HTTP.Addr)
	if err != nil {
		return err
	}
	cert := config.HTTP.TLS
	if cert.Certificate == "" {
		// Upstream's own line, from which a caller that asked for port 0 learns the address.
		logrus.Infof("listening on %v", listener.Addr())
		return http.Serve(listener, app)
	}
	pair, err := tls.LoadX509KeyPair(cert.Certificate, cert.Key)
	if err != nil {
		return err
	}
	logrus.Infof("listening on %v, tls", listener.Addr())
	server := &http.Server{Handler: app, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	return server.ServeTLS(listener, "", "")
}
