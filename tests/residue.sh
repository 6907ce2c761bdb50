#!/bin/sh
# What the whole test suite leaves behind: processes, groups, pipes and terminals, counted before it and after it.
#
# Runs the suite in namespaces and groups of its own, so that nothing else on the host is counted; needs root, cgroup2 and
# util-linux. Usage: tests/residue.sh PROGRAM [ARGUMENT ...], for example
#   tests/residue.sh cargo test
# Ends with the suite's exit code, or 1 when a count differs.
set -u

if [ "${RESIDUE_INSIDE:-}" != yes ]; then
    mount=/sys/fs/cgroup/unified
    [ -e "$mount/cgroup.procs" ] || mount=/sys/fs/cgroup
    RESIDUE_GROUP="$mount/residue-$$"
    mkdir "$RESIDUE_GROUP" || exit 2
    RESIDUE_INSIDE=yes
    export RESIDUE_GROUP RESIDUE_INSIDE
    (
        # A shell says its own number only by itself.
        sh -c 'echo "$PPID"' >"$RESIDUE_GROUP/cgroup.procs"
        exec unshare --pid --fork --kill-child --mount-proc "$0" "$@"
    )
    code=$?
    rmdir "$RESIDUE_GROUP" || code=1
    exit "$code"
fi

mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx || exit 2

seen=$(mktemp -d)
# No pipe and no command substitution: they would be counted too.
count() {
    find /proc -maxdepth 1 -name '[0-9]*' >"$seen/processes"
    find "$RESIDUE_GROUP" -mindepth 1 -type d >"$seen/groups"
    find /proc/[0-9]*/fd -lname 'pipe:*' -printf '%l\n' >"$seen/all-pipes" 2>"$seen/gone"
    sort -u "$seen/all-pipes" >"$seen/pipes"
    find /dev/pts -name '[0-9]*' >"$seen/terminals"
    for kind in processes groups pipes terminals; do
        wc -l <"$seen/$kind"
    done >"$seen/counts"
    tr '\n' ' ' <"$seen/counts" >"$1"
}

count "$seen/before"
"$@"
code=$?
count "$seen/after"
echo "processes, groups, pipes, terminals"
echo "before: $(cat "$seen/before")"
echo "after:  $(cat "$seen/after")"
cmp -s "$seen/before" "$seen/after" || code=1
rm -r "$seen"
exit "$code"
