package trust

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Age is a duration in a policy file: 72h, 30d, or any other that Go knows.
type Age time.Duration

// UnmarshalYAML reads an age.
func (a *Age) UnmarshalYAML(node *yaml.Node) error {
	age, err := ParseAge(node.Value)
	*a = Age(age)
	return err
}

func (a Age) String() string { return FormatAge(time.Duration(a)) }

var days = regexp.MustCompile(`^([0-9]{1,5})d$`)

// ParseAge reads an age, which is positive: days, such as 30d, or a duration as Go has it, such as 72h.
func ParseAge(text string) (time.Duration, error) {
	if m := days.FindStringSubmatch(text); m != nil && m[1] != strings.Repeat("0", len(m[1])) {
		n, err := strconv.Atoi(m[1])
		return time.Duration(n) * 24 * time.Hour, err
	}
	if age, err := time.ParseDuration(text); err == nil && age > 0 {
		return age, nil
	}
	return 0, fmt.Errorf("%q is not an age: want 30d, 72h or the like", text)
}

// FormatAge returns an age as [ParseAge] reads it: in days, hours, minutes or seconds, whichever is exact.
func FormatAge(age time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if age > 0 && age%unit.size == 0 {
			return strconv.FormatInt(int64(age/unit.size), 10) + unit.name
		}
	}
	return age.String()
}
