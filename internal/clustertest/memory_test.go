package clustertest

import (
	"testing"
	"testing/fstest"
)

// A container has less memory than its machine.
func TestReadMemoryHeedsControlGroups(t *testing.T) {
	t.Parallel()
	const machine = "MemAvailable:   20000000 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"no group": {nil, 20_000_000 << 10},
		"version 2": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "6000000000\n", "sys/fs/cgroup/memory.current": "1500000000\n",
			"sys/fs/cgroup/memory.stat": "anon 400000000\ninactive_file 1000000000\nslab 5\n",
		}, 5_500_000_000},
		"version 2, limited by the group around it": {map[string]string{
			"proc/self/cgroup": "0::/ci/job/step\n", "sys/fs/cgroup/ci/job/step/memory.max": "max\n", "sys/fs/cgroup/ci/job/step/memory.current": "1\n",
			"sys/fs/cgroup/ci/job/memory.max": "4000000000\n", "sys/fs/cgroup/ci/job/memory.current": "1000000000\n", "sys/fs/cgroup/ci/memory.max": "max\n",
		}, 3_000_000_000},
		"version 1, in a container with the path of the host": {map[string]string{
			"proc/self/cgroup":                           "9:name=systemd:/docker/0a1b\n4:memory:/docker/0a1b\n1:cpu:/docker/0a1b\n0::/docker/0a1b\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "8000000000\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000000000\n",
			"sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 500000000\n",
		}, 6_500_000_000},
		"version 1, without a limit": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
		}, 20_000_000 << 10},
		"full": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000000000\n", "sys/fs/cgroup/memory.current": "1000000001\n",
		}, 1},
		"a limit above the machine": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "900000000000\n"}, 20_000_000 << 10},
		"not a number":              {map[string]string{"proc/self/cgroup": "0::/\nx\n", "sys/fs/cgroup/memory.max": "\n"}, 20_000_000 << 10},
	} {
		root := fstest.MapFS{"proc/meminfo": {Data: []byte(machine)}}
		for file, text := range c.files {
			root[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := readMemory(root); got != c.want {
			t.Errorf("%s: %d bytes are free, want %d", name, got, c.want)
		}
	}
}
