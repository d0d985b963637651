package firstgc

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// asCollecting makes the test binary a program that says what GOGC is before and after its first collection, and when the next one is.
const asCollecting = "KRTPKG_TEST_COLLECTING"

func TestMain(m *testing.M) {
	if os.Getenv(asCollecting) == "" {
		os.Exit(m.Run())
	}
	println(readPercent())
	runtime.GC()
	for deadline := time.Now().Add(time.Minute); readPercent() > 100 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	println(readPercent())
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	println(len(ballast)>>20, memory.NextGC >= 2*ballastSize)
}

func readPercent() int {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

func TestFirstCollectionEndsTheDelay(t *testing.T) {
	for environment, want := range map[string]string{
		"":                 "800 100 16 true",
		"GOGC=50":          "50 50 0 false",
		"GOMEMLIMIT=40MiB": "100 100 0 false",
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{asCollecting + "=1"}
		if environment != "" {
			cmd.Env = append(cmd.Env, environment)
		}
		out, err := cmd.CombinedOutput()
		if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != want {
			t.Errorf("with %q it printed %q, %v, want %q", environment, got, err, want)
		}
	}
}
