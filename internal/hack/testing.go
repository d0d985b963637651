package hack

import (
	"fmt"
	"os"
	"testing"
)

// BuildForTest returns the path of the program of hack/<name>, which a test needs; the first use on a machine
// builds it. With -short the test is skipped, as all are that need another program: see make quick.
func BuildForTest(t testing.TB, name string) string {
	t.Helper()
	SkipIfShort(t)
	program, err := BuildProgram(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// PrepareForTest is [PrepareControlPlane] for a test whose own processes cannot download or build anything. It skips as
// [BuildForTest] does.
func PrepareForTest(t testing.TB) *ControlPlane {
	t.Helper()
	SkipIfShort(t)
	plane, err := PrepareControlPlane(t.Context(), ReportPreparation)
	if err != nil {
		t.Fatal(err)
	}
	return plane
}

// ReportPreparation prints what is done to have a control plane: it can take minutes.
func ReportPreparation(what string) { fmt.Fprintln(os.Stderr, "control plane:", what) }

// SkipIfShort skips a test that needs another program, such as a control plane, if -short is set.
func SkipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs another program: not with -short")
	}
}
