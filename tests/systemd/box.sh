# shellcheck shell=bash disable=SC2034
# A real systemd for the tests of the installed units. Sourced by tests/systemd/test_*.sh, with their argument.
#
# That systemd runs in a box: namespaces of its own (processes, mounts, network, ...) and a cgroup of its own. It sees
# this machine's files read-only, knows no unit but those made here, and can reach no process outside; the one that runs
# this machine is not spoken to. Killing the box's first process ends everything in it. The workers (worker.c) are
# services in the box too, as a user who is in the group goallocd, and not tied to the daemon's unit.
#
# A test names what it takes (box_units, box_worker), starts the box (box_start), and checks. It prints a line for each
# check. Exit status 0, 1 (a check failed), 77 (this machine cannot run it, and why), 2 (usage).
set -u -o pipefail

if (($# != 1)) || [[ ! -f $1/CMakeCache.txt ]]; then
    echo "usage: $(basename "$0") BUILD_DIR (a configured and compiled build)" >&2
    exit 2
fi
build=$(cd "$1" && pwd) || exit 1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
systemd=/lib/systemd/systemd
units_of_system=/lib/systemd/system
end_by=$((SECONDS + 110))
programs=/run/box/prefix/bin # in the box
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
    local log

    echo "FAILED: $1"
    if [[ -n $box ]]; then
        in_box systemctl list-units --all --plain --no-legend --no-pager 'goallocd*' 'churn*' 'stale*' 'read*'
        for log in "$box_run"/*.log "$tmp/box.output"; do
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
for program in unshare nsenter setpriv systemctl systemd-sysusers systemd-tmpfiles pkg-config; do
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
check "the worker compiles" gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror "${cflags[@]}" \
    -o "$prefix/bin/worker" "$here/worker.c" "${libs[@]}" "-Wl,-rpath,\$ORIGIN/../lib"

units=$tmp/units
mkdir -p "$units" "$tmp/root/etc"
for unit in sysinit basic sockets shutdown umount slices paths timers local-fs; do
    cp "$units_of_system/$unit.target" "$units/" 2>/dev/null || skip "there is no $units_of_system/$unit.target"
done
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >"$units/box.target"

# UNIT...: units as they are installed, but for the place of the programs. What a service says goes to
# /run/box/UNIT.log.
box_units() {
    local unit

    for unit; do
        [[ -f $prefix/lib/systemd/system/$unit ]] || fail "there is no $unit"
        sed -E "s|/[^ ]*/(goallocd\|goallocctl\|goallocd-collector) |$programs/\\1 |g" "$prefix/lib/systemd/system/$unit" >"$units/$unit"
        [[ $unit != *.service ]] || box_settings "$unit" box 'StandardOutput=append:/run/box/%N.log' \
            'StandardError=append:/run/box/%N.log'
    done
}

# UNIT NAME LINE...: a drop-in for a service.
box_settings() {
    local dir=$units/$1.d file=$1.d/$2.conf
    shift 2
    mkdir -p "$dir"
    printf '[Service]\n' >"$units/$file"
    printf '%s\n' "$@" >>"$units/$file"
}

# NAME WHAT [LINE...]: NAME.service is a worker that does WHAT; more lines of its unit.
box_worker() {
    local name=$1 what=$2 type=exec output=append
    shift 2
    [[ $what == read ]] && type=oneshot output=truncate
    cat >"$units/$name.service" <<UNIT
[Service]
Type=$type
ExecStart=$programs/worker $what
User=goallocw
SupplementaryGroups=goallocd
StandardOutput=$output:/run/box/$name.log
StandardError=inherit
UNIT
    printf '%s\n' "$@" >>"$units/$name.service"
}

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
systemd-tmpfiles --create /run/box/prefix/lib/tmpfiles.d/goallocd.conf # as at boot
mount --bind /dev/null /dev/console
: >"$tmp/ready"
cd /
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -o remount,bind,ro /
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/box/units \
    SYSTEMD_LOG_TARGET=console "$systemd" --system --unit=box.target --show-status=no
INIT

box_is_set_up() {
    [[ -f $tmp/ready ]] || ! kill -0 "$unshare_pid" 2>/dev/null
}

in_box() {
    local left=$((end_by - SECONDS))

    timeout "$((left > 1 ? left : 1))" nsenter -t "$box" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        SYSTEMD_UNIT_PATH=/run/box/units "$@"
}

systemd_is_up() {
    [[ $(in_box systemctl is-active box.target 2>/dev/null) == active ]]
}

box_start() {
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs" || exit 1
        # It dies with this script, and the box with it.
        exec setpriv --pdeathsig KILL unshare --pid --fork --mount --cgroup --uts --ipc --net --propagation private \
            --kill-child bash "$tmp/init" "$tmp" "$systemd"
    ) >"$tmp/box.output" 2>&1 </dev/null &
    unshare_pid=$!
    wait_until 30 "set up" box_is_set_up
    [[ -f $tmp/pid ]] && box=$(<"$tmp/pid")
    [[ -f $tmp/ready ]] || skip "no box can be made: $(tail -n 1 "$tmp/box.output")"
    box_run=/proc/$box/root/run/box
    wait_until 30 "systemd" systemd_is_up || skip "systemd does not come up in a box: $(tail -n 1 "$tmp/box.output")"
    ok "$("$systemd" --version | head -n 1) runs in a box"
}

# --- what the checks are made of ---

now_ms() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# UNIT PROPERTY; a unit without a suffix is a service.
property() {
    in_box systemctl show --value -p "$2" "$1"
}

main_pid() {
    property "${1:-goallocd}" MainPID
}

# UNIT STATE
is_state() {
    [[ $(property "$1" ActiveState) == "$2" ]]
}

# PID [UNIT]: a daemon serves, and it is not this one. One question, so both answers are of one moment.
is_another() {
    local state

    state=$(in_box systemctl show -p MainPID,ActiveState "${2:-goallocd}")
    grep -qx ActiveState=active <<<"$state" && ! grep -qx -e "MainPID=$1" -e MainPID=0 <<<"$state"
}

# SERVICE LINE: how often the service has said it.
said() {
    grep -c -e "^$2" "$box_run/$1.log" 2>/dev/null || true
}

has_said() {
    (($(said "$1" "$2") >= $3))
}

has_ended() {
    ! is_state "$1" active
}

# [--socket PATH] ARGUMENT...
ctl() {
    in_box "$programs/goallocctl" "$@"
}

# live_objects, or another number that goallocctl reports; options of its.
statistic() {
    local name=$1
    shift
    ctl "$@" --json stats | sed -n -E "s/^  \"$name\": ([0-9]+),?$/\1/p"
}

roots=
# WHAT [CHURN READ OPTION...]: the worker CHURN stops between two objects: what it has is what the daemon counts
# (goallocctl OPTION...), and what a process that attaches now, READ, finds. Then it goes on. Sets waited_ms, the
# longest that the worker has stood still since the last time. roots is where the roots were; the caller sets it for
# another heap.
look() {
    local what=$1 churn=${2:-churn} read=${3:-read} npauses line objects live nroots replaced where
    shift $(($# < 3 ? $# : 3))

    npauses=$(($(said "$churn" paused) + 1))
    in_box systemctl kill -s USR1 "$churn"
    wait_until 30 "pause" has_said "$churn" paused "$npauses" || fail "$what: the worker does not go on"
    line=$(grep '^paused' "$box_run/$churn.log" | tail -n 1)
    objects=$(sed -E 's/.*objects=([0-9]+).*/\1/' <<<"$line")
    replaced=$(sed -E 's/.*replaced=([0-9]+).*/\1/' <<<"$line")
    waited_ms=$(sed -E 's/.*longest_ms=([0-9]+).*/\1/' <<<"$line")
    ((replaced > 0)) || fail "$what: the worker has done nothing"
    live=$(statistic live_objects "$@")
    nroots=$(statistic roots "$@")
    [[ $live == "$objects" ]] || fail "$what: the worker has $objects objects, the daemon counts $live"
    [[ $nroots == 2 ]] || fail "$what: $nroots roots instead of 2"
    in_box systemctl start "$read" || fail "$what: a new process does not find what it should: $(<"$box_run/$read.log")"
    where=$(<"$box_run/$read.log")
    [[ $where == "${roots:=$where}" ]] || fail "$what: the roots were $roots and are $where"
    in_box systemctl kill -s USR1 "$churn"
    ok "$what: $live objects and $nroots roots, all whole and in their places; $replaced replaced since"
}

# The worker CHURN ends, and has found all its objects whole.
end_worker() {
    local churn=${1:-churn}

    in_box systemctl kill -s TERM "$churn"
    wait_until 30 "end" has_ended "$churn" || fail "the worker does not end"
    [[ $(property "$churn" ExecMainStatus) == 0 && $(property "$churn" Result) == success ]] ||
        fail "the worker has failed"
    check "$churn has found all its objects whole" has_said "$churn" "done" 1
}

# [OPTION...]: the daemon has taken a heap over: its tables must agree with each other.
check_heap() {
    local output

    output=$(ctl "$@" check 2>&1) || fail "the heap is not whole after a takeover: $output"
}

# SIGNAL [UNIT OPTION...]: kill the daemon; another one serves. Sets gap_ms.
kill_daemon() {
    local signal=$1 unit=${2:-goallocd} pid start
    shift $(($# < 2 ? $# : 2))
    pid=$(main_pid "$unit")
    start=$(now_ms)
    in_box kill "-$signal" "$pid" || return 1
    wait_until 30 "restart" is_another "$pid" "$unit" || return 1
    gap_ms=$(($(now_ms) - start))
    check_heap "$@"
}
