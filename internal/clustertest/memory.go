package clustertest

import (
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// readMemory returns how many bytes of memory are free for programs, as Linux tells it of the machine and of the control
// groups of this process, such as those of a container; 0 elsewhere. The root is that of the file system.
func readMemory(root fs.FS) uint64 {
	text, _ := fs.ReadFile(root, "proc/meminfo") // without it nothing is known of the machine
	free := parseMemory(string(text))
	for _, group := range listGroups(root) {
		if left := readGroup(root, group); left > 0 && (free == 0 || left < free) {
			free = left
		}
	}
	return free
}

// controlGroup is a folder with the limit of a control group, and what its files are called.
type controlGroup struct{ dir, limit, usage, reclaimable string }

// listGroups returns the control groups of this process that may limit memory, with those that they are in, of both versions
// of the kernel's interface. In a container the path may be that of the host, where only the last folder is there.
func listGroups(root fs.FS) (all []controlGroup) {
	text, _ := fs.ReadFile(root, "proc/self/cgroup") // systems without control groups have no such file
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(parts) < 3 {
			continue
		}
		group := controlGroup{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"}
		switch {
		case parts[1] == "memory":
			group = controlGroup{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
		case parts[0] != "0":
			continue
		}
		mount := group.dir
		for dir := path.Join("/", parts[2]); ; dir = path.Dir(dir) {
			group.dir = path.Join(mount, dir)
			all = append(all, group)
			if dir == "/" {
				break
			}
		}
	}
	return all
}

// readGroup returns how many bytes a control group may still take; 0 for one without a limit, and 1 if it has none left.
func readGroup(root fs.FS, g controlGroup) uint64 {
	limit, err := readNumber(root, path.Join(g.dir, g.limit))
	if err != nil || limit >= 1<<62 { // version 1 writes a number that large for no limit, version 2 a word
		return 0
	}
	used, err := readNumber(root, path.Join(g.dir, g.usage))
	if err != nil {
		return limit
	}
	stat, _ := fs.ReadFile(root, path.Join(g.dir, "memory.stat")) // without it nothing is known to be reclaimable
	for line := range strings.Lines(string(stat)) {
		if text, ok := strings.CutPrefix(line, g.reclaimable+" "); ok {
			reclaimable, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			used -= min(used, reclaimable)
		}
	}
	return max(1, limit-min(limit, used))
}

func readNumber(root fs.FS, name string) (uint64, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

var memoryLine = regexp.MustCompile(`(?m)^MemAvailable: +([0-9]+) kB$`)

// parseMemory returns what meminfo says is available, in bytes.
func parseMemory(meminfo string) uint64 {
	match := memoryLine.FindStringSubmatch(meminfo)
	if match == nil {
		return 0
	}
	kilobytes, err := strconv.ParseUint(match[1], 10, 50)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}
