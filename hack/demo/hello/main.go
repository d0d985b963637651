// Command hello is the workload of the demo runtime: it says who it is over HTTP.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

// version is set by the linker.
var version = "(devel)"

func main() {
	listen := flag.String("listen", ":8080", "address to listen on")
	name := flag.String("name", "hello", "what to say")
	flag.Parse()
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Addr:              *listen,
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%s from %s, version %s\n", *name, host, version)
		}),
	}
	log.Fatal(server.ListenAndServe())
}
