package cli

import (
	"time"

	"krtpkg.dev/krtpkg/pkg/trust"
)

// dayDuration is a flag for a duration that may be in days.
type dayDuration time.Duration

// String, Set and Type make it a flag.
func (d *dayDuration) String() string {
	if *d == 0 {
		return ""
	}
	return trust.FormatAge(time.Duration(*d))
}

// Set takes 30d, 12h and what else Go calls a duration.
func (d *dayDuration) Set(text string) error {
	age, err := trust.ParseAge(text)
	*d = dayDuration(age)
	return err
}

// Type returns what help calls the flag's value.
func (d *dayDuration) Type() string { return "age" }

// formatAge returns an age for a table.
func formatAge(age time.Duration) string {
	switch {
	case age >= 48*time.Hour:
		return trust.FormatAge(age.Truncate(24 * time.Hour))
	case age >= 2*time.Hour:
		return trust.FormatAge(age.Truncate(time.Hour))
	case age >= 2*time.Minute:
		return trust.FormatAge(age.Truncate(time.Minute))
	}
	return age.Truncate(time.Second).String()
}
