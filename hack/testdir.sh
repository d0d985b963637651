#!/bin/sh
# Runs a command, such as go test, with its temporary files in memory: tests write tens of thousands of small files.
#
#	hack/testdir.sh go test ./...
#
# They are on disk, as ever, where TMPDIR or GOTMPDIR is set, where programs can't be started from memory, and where less
# than 16 GB are free: five control planes take 9. The folder has the same name each time, since go test caches results by
# it. It is removed when the command has ended, be that by a signal.
memory=/dev/shm
dir=$memory/krtpkg-$(echo "$(id -u) $(pwd)" | cksum | cut -d ' ' -f 1) # short: sockets are in it

has_room() {
	room=$(df -Pk "$memory" 2>/dev/null | awk 'NR == 2 { print $4 }')
	free=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo 2>/dev/null)
	[ -w "$memory" ] && [ "${room:-0}" -gt 8000000 ] && [ "${free:-0}" -gt 16000000 ]
}

# A folder that is there is another run's, or somebody else's. One of a run that has just ended goes within a second.
make_dir() {
	for wait in 1 1 1 0; do
		mkdir -m 700 "$dir" 2>/dev/null && return
		sleep "$wait"
	done
	echo "temporary files are on disk: another run uses $dir" >&2
	return 1
}

if [ -z "$TMPDIR$GOTMPDIR" ] && has_room && make_dir; then
	if cp /bin/true "$dir/probe" && "$dir/probe"; then
		export TMPDIR="$dir"
	fi 2>/dev/null
	(
		trap '' HUP INT TERM
		while kill -0 $$; do sleep 1; done
		# What an interrupted test has started ends a moment later.
		rm -rf "$dir" || { sleep 10; chmod -R u+w "$dir"; rm -rf "$dir"; }
	) >/dev/null 2>&1 &
	rm -f "$dir/probe"
fi
exec "$@"
