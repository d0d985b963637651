// Command pod is what runs in the containers of the tests: it says what it is told to, answers
// HTTP requests at :8080, and ends when it is asked to. As pause, it only waits.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 {
		fmt.Println(os.Args[1])
		go func() {
			fmt.Println(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, os.Args[1])
			})))
			os.Exit(1)
		}()
	}
	<-end
}
