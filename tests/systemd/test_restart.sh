#!/bin/bash
# test_restart.sh BUILD_DIR: the installed unit under a real systemd, and workers that go on while it is restarted,
# killed and stopped.
#
# That systemd runs in a box: namespaces of its own (processes, mounts, network, ...) and a cgroup of its own. It sees
# this machine's files read-only, knows no unit but those made here, and can reach no process outside; the one that runs
# this machine is not spoken to. Killing the box's first process ends everything in it. The workers are services in the
# box too, as a user who is in the group goallocd, and not tied to the daemon's unit.
#
# Prints a line for each check. Exit status 0, 1 (a check failed), 77 (this machine cannot run it, and why), 2 (usage).
set -u -o pipefail

if (($# != 1)) || [[ ! -f $1/CMakeCache.txt ]]; then
    echo "usage: test_restart.sh BUILD_DIR (a configured and compiled build)" >&2
    exit 2
fi
build=$(cd "$1" && pwd) || exit 1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
systemd=/lib/systemd/systemd
units_of_system=/lib/systemd/system
end_by=$((SECONDS + 55))
tmp=
cgroup=
unshare_pid=
box=

# The pid of the box's first process is known once it has said it: box.
clean_up() {
    local i

    trap - EXIT
    trap '' INT TERM HUP
    if [[ -n $box ]]; then
        kill -KILL "$box" 2>/dev/null
    fi
    if [[ -n $unshare_pid ]]; then
        kill -KILL "$unshare_pid" 2>/dev/null
        wait "$unshare_pid" 2>/dev/null
    fi
    for ((i = 0; i < 200; i++)); do
        [[ -n $cgroup && -d $cgroup ]] || break
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
        sleep 0.02
    done
    [[ -n $tmp ]] && rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

skip() {
    echo "skipped: $1"
    exit 77
}

ok() {
    echo "ok: $1"
}

fail() {
    echo "FAILED: $1"
    if [[ -n $box ]]; then
        in_box systemctl show -p ActiveState,SubState,Result,ExecMainStatus,NRestarts goallocd.service churn.service stale.service
        for log in "$box_run"/*.log; do
            echo "$(basename "$log"):"
            tail -n 20 "$log"
        done
    fi | sed 's/^/    /'
    exit 1
}

# NAME COMMAND...: the output is shown only if it fails.
check() {
    local name=$1 output
    shift
    output=$("$@" 2>&1) || fail "$name${output:+: $output}"
    ok "$name"
}

# SECONDS NAME COMMAND...: until the command succeeds.
wait_until() {
    local until=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000)) name=$2
    shift 2
    until "$@"; do
        ((${EPOCHREALTIME/[.,]/} < until && SECONDS < end_by)) || return 1
        sleep 0.01
    done
}

# --- can this machine do it? ---

((EUID == 0)) || skip "needs root"
for program in unshare nsenter setpriv systemctl systemd-sysusers pkg-config; do
    command -v "$program" >/dev/null || skip "there is no $program"
done
[[ -x $systemd ]] || skip "there is no $systemd (package systemd)"
cgroups=/sys/fs/cgroup
[[ -d $cgroups/unified ]] && cgroups=$cgroups/unified
[[ $(stat -f -c %T "$cgroups" 2>/dev/null) == cgroup2fs ]] || skip "there is no cgroup2 at $cgroups"
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
cgroups=$cgroups${own%/}
cgroup=$cgroups/goalloc-box.$$
if ! mkdir "$cgroup" 2>/dev/null; then
    cgroup=
    skip "no cgroup can be made in $cgroups"
fi
tmp=$(mktemp -d) || exit 1

# --- what goes into the box ---

prefix=$tmp/prefix
cmake --install "$build" --prefix "$prefix" >"$tmp/output" 2>&1 || { cat "$tmp/output"; fail "cmake --install"; }
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
read -r -a cflags <<<"$(pkg-config --cflags goalloc)"
read -r -a libs <<<"$(pkg-config --libs goalloc)"
check "the worker compiles" gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror "${cflags[@]}" -o "$prefix/bin/worker" \
    "$here/worker.c" "${libs[@]}" "-Wl,-rpath,\$ORIGIN/../lib"

units=$tmp/units
mkdir -p "$units/goallocd.service.d" "$tmp/root/etc"
for unit in sysinit basic sockets shutdown umount slices paths timers local-fs; do
    cp "$units_of_system/$unit.target" "$units/" 2>/dev/null || skip "there is no $units_of_system/$unit.target"
done
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >"$units/box.target"
cp "$prefix/lib/systemd/system/goallocd.service" "$units/" || fail "there is no unit"
# The unit as it is installed, but for the place of the programs.
daemon=/run/box/prefix/bin/goallocd
{
    printf '[Service]\nExecStart=\nExecStop=\n'
    sed -n -e "s|^ExecStart=[^ ]*/goallocd |ExecStart=$daemon |p" -e "/^ExecStop=/s| [^ ]*/goallocctl | ${daemon%d}ctl |p" \
        "$units/goallocd.service"
    printf 'StandardOutput=append:/run/box/goallocd.log\nStandardError=append:/run/box/goallocd.log\n'
} >"$units/goallocd.service.d/box.conf"
for what in churn read stale; do
    type=exec output=append
    [[ $what == read ]] && type=oneshot output=truncate
    cat >"$units/$what.service" <<UNIT
[Service]
Type=$type
ExecStart=/run/box/prefix/bin/worker $what
User=goallocw
SupplementaryGroups=goallocd
StandardOutput=$output:/run/box/$what.log
StandardError=inherit
UNIT
done

# Users and groups of the box: this machine's, and those that the unit wants.
cp /etc/passwd /etc/group "$tmp/root/etc/" || exit 1
printf 'u goallocw - "Worker"\n' >"$prefix/lib/sysusers.d/goallocw.conf"
check "systemd-sysusers makes the user" systemd-sysusers --root="$tmp/root" "$prefix"/lib/sysusers.d/*.conf

# --- the box ---

# The first process of the box: everything is copied to its own /run, then this machine's files become read-only for it.
cat >"$tmp/init" <<'INIT'
set -e
tmp=$1 systemd=$2
read -r pid _ </proc/self/stat # the number outside: /proc is still the old one
echo "$pid" >"$tmp/pid.new"
mv "$tmp/pid.new" "$tmp/pid"
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/box
cp -a "$tmp/prefix" "$tmp/units" "$tmp/root/etc" /run/box/
chmod -R go+rX /run/box
mount --bind /run/box/etc/passwd /etc/passwd
mount --bind /run/box/etc/group /etc/group
mount --bind /dev/null /dev/console
: >"$tmp/ready"
cd /
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -o remount,bind,ro /
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/box/units SYSTEMD_LOG_TARGET=console \
    "$systemd" --system --unit=box.target --show-status=no
INIT

(
    echo "$BASHPID" >"$cgroup/cgroup.procs" || exit 1
    # It dies with this script, and the box with it.
    exec setpriv --pdeathsig KILL unshare --pid --fork --mount --cgroup --uts --ipc --net --propagation private --kill-child \
        bash "$tmp/init" "$tmp" "$systemd"
) >"$tmp/box.output" 2>&1 </dev/null &
unshare_pid=$!

set_up() {
    [[ -f $tmp/ready ]] || ! kill -0 "$unshare_pid" 2>/dev/null
}
wait_until 10 "set up" set_up
[[ -f $tmp/pid ]] && box=$(<"$tmp/pid")
[[ -f $tmp/ready ]] || skip "no box can be made: $(tail -n 1 "$tmp/box.output")"
box_run=/proc/$box/root/run/box

in_box() {
    local left=$((end_by - SECONDS))

    timeout "$((left > 1 ? left : 1))" nsenter -t "$box" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
systemd_is_up() {
    [[ $(in_box systemctl is-active box.target 2>/dev/null) == active ]]
}
wait_until 15 "systemd" systemd_is_up || skip "systemd does not come up in a box: $(tail -n 1 "$tmp/box.output")"
ok "$("$systemd" --version | head -n 1) runs in a box"

# --- what the checks are made of ---

now_ms() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}
property() {
    in_box systemctl show --value -p "$2" "$1.service"
}
main_pid() {
    property goallocd MainPID
}
is_state() {
    [[ $(property "$1" ActiveState) == "$2" ]]
}
# A daemon serves, and it is not this one. One question, so both answers are of one moment.
is_another() {
    local state

    state=$(in_box systemctl show -p MainPID,ActiveState goallocd.service)
    grep -qx ActiveState=active <<<"$state" && ! grep -qx -e "MainPID=$1" -e MainPID=0 <<<"$state"
}

# SERVICE LINE: how often the service has said it.
said() {
    grep -c -e "^$2" "$box_run/$1.log" 2>/dev/null || true
}
has_said() {
    (($(said "$1" "$2") >= $3))
}
churn_has_ended() {
    ! is_state churn active
}

# live_objects, or another number that goallocctl reports.
statistic() {
    in_box "${daemon%/*}/goallocctl" --json stats | sed -n -E "s/^  \"$1\": ([0-9]+),?$/\1/p"
}

npauses=0
roots=
# WHAT: the worker stops between two objects: what it has is what the daemon counts, and what a process that attaches now finds.
# Then it goes on. Sets waited_ms, the longest that the worker has stood still since the last time.
look() {
    local line objects live nroots replaced where

    npauses=$((npauses + 1))
    in_box systemctl kill -s USR1 churn.service
    wait_until 10 "pause" has_said churn paused "$npauses" || fail "$1: the worker does not go on"
    line=$(grep '^paused' "$box_run/churn.log" | tail -n 1)
    objects=$(sed -E 's/.*objects=([0-9]+).*/\1/' <<<"$line")
    replaced=$(sed -E 's/.*replaced=([0-9]+).*/\1/' <<<"$line")
    waited_ms=$(sed -E 's/.*longest_ms=([0-9]+).*/\1/' <<<"$line")
    ((replaced > 0)) || fail "$1: the worker has done nothing"
    live=$(statistic live_objects)
    nroots=$(statistic roots)
    [[ $live == "$objects" ]] || fail "$1: the worker has $objects objects, the daemon counts $live"
    [[ $nroots == 2 ]] || fail "$1: $nroots roots instead of 2"
    in_box systemctl start read.service || fail "$1: a new process does not find what it should: $(<"$box_run/read.log")"
    where=$(<"$box_run/read.log")
    [[ $where == "${roots:=$where}" ]] || fail "$1: the roots were $roots and are $where"
    in_box systemctl kill -s USR1 churn.service
    ok "$1: $live objects and $nroots roots, all whole and in their places; $replaced replaced since"
}

# The daemon has taken a heap over: its tables must agree with each other.
check_heap() {
    local output

    output=$(in_box "${daemon%/*}/goallocctl" check 2>&1) || fail "the heap is not whole after a takeover: $output"
}

# Kill the daemon; another one serves. Sets gap_ms.
kill_daemon() {
    local pid start
    pid=$(main_pid)
    start=$(now_ms)
    in_box kill "-$1" "$pid" || return 1
    wait_until 10 "restart" is_another "$pid" || return 1
    gap_ms=$(($(now_ms) - start))
    check_heap
}

# --- the checks ---

start=$(now_ms)
check "systemctl start" in_box systemctl start goallocd.service
started_ms=$(($(now_ms) - start))
check "the unit is active ($started_ms ms)" is_state goallocd active
check "systemd keeps six descriptors" test "$(property goallocd NFileDescriptorStore)" = 6

check "a worker attaches" in_box systemctl start churn.service
wait_until 10 "data" has_said churn ready 1 || fail "the worker does not get ready"
look "at the beginning"

pid=$(main_pid)
start=$(now_ms)
check "systemctl restart" in_box systemctl restart goallocd.service
gap_ms=$(($(now_ms) - start))
check "it is another process ($gap_ms ms)" is_another "$pid"
check_heap
check "its log tells a takeover" grep -q "took over heap" "$box_run/goallocd.log"
look "after systemctl restart"
ok "the worker has stood still for $waited_ms ms at most"

kill_daemon KILL || fail "no daemon again after kill -9"
ok "kill -9, and systemd has started the next one ($gap_ms ms)"
look "after kill -9"
ok "the worker has stood still for $waited_ms ms at most"

for i in 1 2 3; do
    kill_daemon KILL || fail "no daemon again after kill -9, number $i in a row"
done
ok "kill -9, three times in a row"
look "after three times kill -9"

kill_daemon USR1 || fail "no daemon again after SIGUSR1"
ok "SIGUSR1, and systemd has started the next one ($gap_ms ms)"
kill_daemon TERM || fail "no daemon again after SIGTERM"
ok "SIGTERM, and systemd has started the next one ($gap_ms ms)"
look "after both"
check "systemd keeps six descriptors, still" test "$(property goallocd NFileDescriptorStore)" = 6

in_box systemctl kill -s TERM churn.service
wait_until 10 "end" churn_has_ended || fail "the worker does not end"
[[ $(property churn ExecMainStatus) == 0 && $(property churn Result) == success ]] || fail "the worker has failed"
check "the worker has found all its objects whole" has_said churn "done" 1
check "and has left nothing" test "$(statistic live_objects)/$(statistic roots)" = 0/0

# A stop, with workers or without, is the end of a heap.
check "a second worker attaches" in_box systemctl start stale.service
wait_until 10 "data" has_said stale ready 1 || fail "the worker does not get ready"
check "systemctl stop" in_box systemctl stop goallocd.service
check "it has dropped the heap" grep -q "the heap is dropped" "$box_run/goallocd.log"
check "nothing is kept" test "$(property goallocd NFileDescriptorStore)" = 0
check "systemctl start" in_box systemctl start goallocd.service
check "the heap is a new one" test "$(statistic live_objects)/$(statistic roots)" = 0/0
in_box systemctl kill -s USR1 stale.service
wait_until 10 "stale" has_said stale "done" 1 || fail "the worker of the old heap is not told"
ok "the worker of the old heap knows without a call, gets ESTALE, and attaches to the new one"
pid=$(main_pid)
in_box "${daemon%d}ctl" --yes drop || fail "goallocctl drop"
wait_until 10 "restart" is_another "$pid" || fail "no daemon again after goallocctl drop"
check "goallocctl drop: systemd has started a daemon with a new heap" grep -q "new heap" "$box_run/goallocd.log"

# A daemon that can't start is not started for ever.
mv "$box_run/prefix/bin/goallocd" "$box_run/prefix/bin/goallocd.gone"
start=$(now_ms)
in_box kill -KILL "$(main_pid)"
wait_until 15 "limit" is_state goallocd failed || fail "a crash loop does not end"
gap_ms=$(($(now_ms) - start))
ok "a crash loop ends ($gap_ms ms, $(property goallocd NRestarts) restarts)"
mv "$box_run/prefix/bin/goallocd.gone" "$box_run/prefix/bin/goallocd"
in_box systemctl reset-failed goallocd.service
check "and the unit can be started again" in_box systemctl start goallocd.service
