package hack

import "testing"

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

// SkipIfShort skips a test that needs another program, such as a control plane, if -short is set.
func SkipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs another program: not with -short")
	}
}
