//go:build !linux && !darwin

package layout

// freeSpace does not know how much may be written.
func freeSpace(string) (free int64, known bool) { return 0, false }
