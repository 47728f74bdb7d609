#!/bin/bash
# test_upgrade.sh [--jobs N] CACHE_DIR: the Debian packages in a clean Debian 12 with a systemd of its own: built by
# the one command, installed, used by two workers, upgraded under these, removed and purged.
#
# Everything happens in roots of its own (roots.sh) and in a box (box.sh). What takes long is kept in CACHE_DIR: Debian
# is fetched by the first run, and what has not changed is not compiled again. Takes root, mmdebstrap, a network once.
# GOALLOC_TEST_MIRROR is where Debian comes from, else what mmdebstrap takes by itself.
#
# Prints a line for each check. Exit status 0, 1 (a check failed), 77 (this machine cannot run it, and why), 2 (usage).
set -u -o pipefail

usage() {
    echo "usage: test_upgrade.sh [--jobs N] CACHE_DIR" >&2
    exit 2
}

jobs=$(nproc)
if [[ ${1-} == --jobs ]]; then
    [[ ${2-} =~ ^[1-9][0-9]*$ ]] || usage
    jobs=$2
    shift 2
fi
(($# == 1)) || usage
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
sources=$(cd "$here/../.." && pwd) || exit 1
mkdir -p "$1" || exit 1
cache=$(cd "$1" && pwd) || exit 1
mirror=${GOALLOC_TEST_MIRROR:-}
tmp=
root=
# shellcheck source=tests/packages/roots.sh
source "$here/roots.sh"
# shellcheck source=tests/packages/box.sh
source "$here/box.sh"

clean_up() {
    trap - EXIT
    trap '' INT TERM HUP
    box_end
    [[ -n $root ]] && rm -rf --one-file-system "$root"
    [[ -n $tmp ]] && rm -rf --one-file-system "$tmp"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

begun=$SECONDS
step=0
section() {
    step=$((step + 1))
    echo "== $step. $1 ($((SECONDS - begun)) s)"
}

fail() {
    echo "FAILED: $1"
    if [[ -n $box_pid ]]; then
        in_box systemctl --no-pager --lines=0 status 'goalloc*' 'worker@*'
        in_box journalctl --no-pager --lines=40 -o short-precise
        tail -n 20 "/proc/$box_pid/root/run"/worker-*.log
    fi 2>&1 | sed 's/^/    /'
    exit 1
}

# NAME COMMAND...: the output is shown only if it fails.
check() {
    local name=$1
    shift
    "$@" >"$tmp/output" 2>&1 || fail "$name: $(tail -n 30 "$tmp/output")"
    ok "$name"
}

# SECONDS COMMAND...: until the command succeeds.
wait_until() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || return 1
        sleep 0.05
    done
}

# --- can this machine do it? ---

obstacle=$(box_obstacle)
[[ -z $obstacle ]] || skip "$obstacle"
for program in mmdebstrap unshare nsenter setpriv flock apt-config dpkg-parsechangelog; do
    command -v "$program" >/dev/null || skip "there is no $program"
done
exec 9>"$cache/lock"
flock --nonblock 9 || skip "another run uses $cache"
tmp=$(mktemp -d) || exit 1
root=$cache/root
rm -rf --one-file-system "$root"

# --- what the steps are made of ---

layouts=0 # builds of another layout can be had
if grep -q GOALLOC_LAYOUT_MINOR "$sources/CMakeLists.txt"; then
    layouts=1
fi

# SUFFIX CMAKE-OPTION...: the packages of version $version$SUFFIX, in $cache/build/srv/out.
build_packages() {
    local suffix=$1 option options=()
    shift
    for option; do
        options+=(--cmake "$option")
    done
    in_root "$cache/build" env DEB_BUILD_OPTIONS="noautodbgsym parallel=$jobs" /srv/source/packaging/build-debs \
        --out /srv/out --work /srv/work ${suffix:+--version-suffix "$suffix"} "${options[@]}" >"$tmp/build.log" 2>&1 ||
        fail "packages $version$suffix: $(grep -A5 -i -w error "$tmp/build.log" | cut -c 1-200 | head -n 40)"
    ok "packages $version$suffix ${options[*]}"
}

# SUFFIX: these packages lie in the root, and none else.
offer_packages() {
    rm -rf "$root/srv/debs"
    mkdir -p "$root/srv/debs"
    cp "$cache"/build/srv/out/*_"$version$1"_*.deb "$root/srv/debs/"
}

# SUFFIX APT-OPTION...: install them, or change to them. What apt says is in $tmp/apt.log.
apt_install() {
    offer_packages "$1"
    shift
    in_box sh -c 'exec apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" /srv/debs/*.deb' sh "$@" \
        >"$tmp/apt.log" 2>&1 || fail "apt-get install: $(tail -n 30 "$tmp/apt.log")"
}
apt_has_said() {
    grep -q -F -e "$1" "$tmp/apt.log" || fail "apt has not said '$1': $(tail -n 30 "$tmp/apt.log")"
    ok "apt says '$1'"
}

property() {
    in_box systemctl show --value -p "$2" "$1"
}
is_state() {
    [[ $(property "$1" ActiveState) == "$2" ]]
}
main_pid() {
    property "${1:-goallocd.service}" MainPID
}
# PID [UNIT]: another daemon serves.
is_another() {
    local state

    state=$(in_box systemctl show -p MainPID,ActiveState "${2:-goallocd.service}")
    grep -qx ActiveState=active <<<"$state" && ! grep -qx -e "MainPID=$1" -e MainPID=0 <<<"$state"
}
# The daemon that runs is the one that is installed.
runs_installed() {
    [[ $(in_box readlink "/proc/$(main_pid)/exe") == /usr/bin/goallocd ]]
}

# RESTARTS: systemd has tried the unit that often by itself since it is there, and has not given up.
is_tried() {
    (($(property goallocd.service NRestarts) >= $1)) && ! is_state goallocd.service failed
}

# NAME LINE: how often the worker has said a line that begins so.
said() {
    grep -c -e "^$2" "/proc/$box_pid/root/run/worker-$1.log" 2>/dev/null || true
}
has_said() {
    (($(said "$1" "$2") >= $3))
}
start_worker() {
    local times
    times=$(($(said "$1" "$2") + 1))
    in_box systemctl start "worker@$1.service" || fail "worker $1 can't be started"
    wait_until 60 has_said "$1" "$2" "$times" || fail "worker $1 has not $2 its objects"
}
# WHEN: both workers go on, with all that they had.
look() {
    local name times

    for name in one two; do
        times=$(($(said "$name" whole) + 1))
        in_box systemctl kill -s USR1 "worker@$name.service"
        wait_until 90 has_said "$name" whole "$times" || fail "$1: worker $name does not go on"
        [[ $(said "$name" failed) == 0 && $(said "$name" gone) == "$gone" ]] ||
            fail "$1: worker $name has lost something"
    done
    in_box goallocctl check >"$tmp/output" 2>&1 || fail "$1: the heap is not whole: $(<"$tmp/output")"
    ok "$1: both workers go on, with all their objects whole"
}

# TIMES: both workers have been told that their heap is gone, that often by now.
gone=0
all_are_told() {
    local name

    gone=$1
    for name in one two; do
        wait_until 60 has_said "$name" gone "$gone" || fail "worker $name is not told that its heap is gone"
    done
    ok "the workers are told that their heap is gone"
}

# What a file system holds, and what is in /etc; without what every installation by apt leaves behind.
list_files() {
    in_box find / -xdev \( -path /srv -o -path /var/cache/apt -o -path /var/lib/apt -o -path /var/log -o \
        -path /var/cache/ldconfig -o -path '/var/lib/dpkg/*-old' -o -path /var/lib/dpkg/triggers -o -path /var/tmp -o \
        -path /etc/passwd- -o -path /etc/group- -o -path /etc/shadow- -o -path /etc/gshadow- \) -prune -o \
        -printf '%p %y %m %u:%g %l\n' | sort
    in_box find /etc -xdev -type f ! -name 'passwd*' ! -name 'group*' ! -name 'shadow*' ! -name 'gshadow*' \
        ! -name ld.so.cache ! -name '.pwd.lock' -exec sha256sum {} + | sort -k 2
}
list_units() {
    in_box systemctl list-unit-files --no-legend 'goalloc*'
    in_box systemctl list-units --all --plain --no-legend 'goalloc*'
}

# --- steps that need what this build may not have ---

# PROGRAM WORD: its help has the word.
knows() {
    grep -q -w -e "$2" <<<"$(in_box "$1" --help 2>&1)"
}

# goallocctl top, for people and in a pipe.
see_top() {
    knows goallocctl top || return 0
    in_box goallocctl top --once >"$tmp/output" 2>&1 || fail "goallocctl top --once: $(<"$tmp/output")"
    grep -q one "$tmp/output" && grep -q two "$tmp/output" ||
        fail "goallocctl top --once has no workers: $(<"$tmp/output")"
    ok "goallocctl top --once shows both workers"
}

# PORT PATH: what a server in the box answers.
get() {
    # shellcheck disable=SC2016
    in_box timeout 20 bash -c \
        'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET %s HTTP/1.0\r\n\r\n" "$2" >&3 && cat <&3' bash "$1" "$2" \
        >"$tmp/answer" 2>&1
}
exporter_answers() {
    get "$exporter_port" /metrics && grep -q '^goallocd_sessions' "$tmp/answer"
}
prometheus_has_sessions() {
    get 9090 '/api/v1/query?query=sum(goallocd_sessions)' && grep -q '"value":\[[0-9.]*,"2"\]' "$tmp/answer"
}

# What the exporter says, and what a prometheus makes of it, if this machine has one.
exporter_port=${GOALLOC_EXPORTER_PORT:-19846}
see_metrics() {
    [[ -e $root/lib/systemd/system/goallocd-exporter.service ]] || return 0
    check "the exporter starts" in_box systemctl start goallocd-exporter.service
    wait_until 60 exporter_answers || fail "the exporter does not answer: $(<"$tmp/answer")"
    ok "the exporter has $(grep -c '^goallocd' "$tmp/answer") figures"
    command -v prometheus >/dev/null || return 0
    cp "$(command -v prometheus)" "$root/srv/prometheus"
    cat >"$root/srv/prometheus.yml" <<CONFIG
scrape_configs:
  - job_name: goallocd
    scrape_interval: 1s
    static_configs:
      - targets: ["127.0.0.1:$exporter_port"]
CONFIG
    cat >"$root/etc/systemd/system/prometheus-for-test.service" <<'UNIT'
[Service]
ExecStart=/srv/prometheus --config.file=/srv/prometheus.yml --storage.tsdb.path=/srv/tsdb \
    --web.listen-address=127.0.0.1:9090
UNIT
    in_box systemctl daemon-reload
    check "a prometheus starts" in_box systemctl start prometheus-for-test.service
    wait_until 120 prometheus_has_sessions || fail "prometheus has not both sessions: $(<"$tmp/answer")"
    ok "a prometheus has scraped both sessions"
    in_box systemctl stop prometheus-for-test.service
    rm "$root/etc/systemd/system/prometheus-for-test.service"
}

reload() {
    knows goallocctl reload || return 0
    check "systemctl reload" in_box systemctl reload goallocd.service
    look "after a reload"
}

# A second daemon beside the first, with a name that systemd would unescape. Sets instance_pid.
instance=goallocd@second-heap.service
instance_pid=
start_instance() {
    [[ -e $root/lib/systemd/system/goallocd@.service ]] || return 0
    check "an instance starts" in_box systemctl start "$instance"
    instance_pid=$(main_pid "$instance")
}

# --- 1. roots ---

section "a clean Debian, and in it the packages"
source_tree=$tmp/source
mkdir "$source_tree"
"$sources/packaging/list-sources" | tar --create --directory="$sources" --null --files-from=- |
    tar --extract --directory="$source_tree" || fail "copying the sources"
version=$(dpkg-parsechangelog -l "$source_tree/debian/changelog" -S Version)
make_base >"$tmp/output" 2>&1 || skip "no Debian can be fetched: $(tail -n 3 "$tmp/output")"
make_build_root "$source_tree" >"$tmp/output" 2>&1 || fail "apt-get build-dep: $(tail -n 30 "$tmp/output")"
ok "a root with what debian/control asks for"
rm -rf "$cache/build/srv/source" "$cache/build/srv/out"
cp -a "$source_tree" "$cache/build/srv/source"
build_packages ""
diff -r "$source_tree" "$cache/build/srv/source" >"$tmp/output" ||
    fail "the build has changed its sources: $(<"$tmp/output")"
ok "and the sources are as they were"
if ((layouts)); then
    build_packages +minor -DGOALLOC_LAYOUT_MINOR=7
    build_packages +zmajor -DGOALLOC_LAYOUT_MAJOR=7
    next=+minor
else
    build_packages +next
    next=+next
fi
if command -v lintian >/dev/null; then
    check "lintian finds no errors" lintian --allow-root --fail-on error \
        "$cache/build/srv/out/goallocd_${version}_"*.changes
fi

# --- 2. by hand ---

section "an installation by hand"
# The README's lines, where the dynamic linker needs to be told.
by_hand() {
    in_root "$cache/build" sh -ec '
        build=$(echo /srv/work/goallocd-packages/goallocd/obj-*)
        cmake --install "$build" --prefix /usr/local
        trap "xargs rm -f <\"$build/install_manifest.txt\"; ldconfig; rm -rf /srv/by-hand" EXIT
        mkdir -p /srv/by-hand
        cd /srv/by-hand
        /usr/local/bin/goallocd --socket /srv/by-hand/heap.sock &
        gcc /srv/source/tests/examples/quickstart.c -o quickstart $(pkg-config --cflags --libs goalloc)
        until [ -S heap.sock ]; do sleep 0.1; done
        GOALLOC_SOCKET=/srv/by-hand/heap.sock ./quickstart
        grep "^ExecStart=/usr/local/bin/goallocd " /usr/local/lib/systemd/system/goallocd.service
        kill $!'
}
# There is no cmocka in that root.
without_cmocka() {
    in_root "$cache/build" sh -ec '
        trap "rm -rf /srv/by-hand" EXIT
        cmake -S /srv/source -B /srv/by-hand
        ! cmake -S /srv/source -B /srv/by-hand -DGOALLOC_TESTS=ON' | tee "$tmp/said"
    ((PIPESTATUS[0] == 0)) && grep "No cmocka" "$tmp/said"
}
check "without cmocka a build has no tests, unless they are insisted on" without_cmocka
check "cmake --install --prefix /usr/local, and the quickstart runs" by_hand

# --- 3. installation ---

section "installation"
unpack_root "$root" || fail "no root can be unpacked"
offer_packages ""
fetch_archives "$root" >"$tmp/output" 2>&1 || skip "dependencies can't be fetched: $(tail -n 3 "$tmp/output")"
cat >"$root/etc/systemd/system/worker@.service" <<'UNIT'
[Service]
Type=exec
ExecStart=/srv/worker %i
User=daemon
SupplementaryGroups=goallocd
StandardOutput=append:/run/worker-%i.log
StandardError=inherit
RestartForceExitStatus=SIGKILL
UNIT
cp "$here/worker.c" "$root/srv/worker.c"
box_start "$root" "$tmp" || skip "systemd does not come up in a box: $(tail -n 1 "$tmp/box.output")"
ok "$(in_box "$box_systemd" --version | head -n 1) runs in a box"
in_box ldconfig
list_files >"$tmp/files.before"
cp "$root/etc/passwd" "$root/etc/group" "$tmp/"
apt_install ""
ok "apt-get install"
check "the service runs" is_state goallocd.service active
check "and is started at boot" in_box systemctl is-enabled goallocd.service
check "goallocctl ping" in_box goallocctl ping
check "a program compiles with what pkg-config says" in_box sh -c 'cd /srv && gcc -std=c11 -D_GNU_SOURCE -O2 -Wall \
    -Wextra -Werror worker.c -o worker $(pkg-config --cflags --libs goalloc)'
check "the package for Python uses the heap" in_box python3 -c 'import goalloc; print(goalloc.alloc(10), goalloc.stats())'

# --- 4. use ---

section "two workers, and what is killed"
start_worker one made
start_worker two made
look "at the beginning"
pid=$(main_pid)
in_box sh -c "kill -KILL $pid"
wait_until 60 is_another "$pid" || fail "no daemon again after kill -9"
look "after kill -9 of the daemon"
times=$(said two found)
in_box systemctl kill -s KILL worker@two.service
wait_until 60 has_said two found $((times + 1)) || fail "no worker again after kill -9"
look "after kill -9 of a worker"
see_top
see_metrics
reload
start_instance

# --- 5. upgrades ---

section "an upgrade under load"
pid=$(main_pid)
apt_install "$next"
if knows goallocd --check-takeover; then
    check "the daemon has been restarted" is_another "$pid"
    if [[ -n $instance_pid ]]; then
        check "and so has the instance" is_another "$instance_pid" "$instance"
    fi
else
    apt_has_said "goallocd.service goes on with the OLD build"
    apt_has_said "systemctl restart goallocd.service"
    [[ $(main_pid) == "$pid" ]] || fail "the daemon has been restarted"
    look "after the upgrade, with the old daemon"
    check "systemctl restart, as it says" in_box systemctl restart goallocd.service
fi
check "the new build runs" runs_installed
look "after the upgrade"
check "a worker can be restarted" in_box systemctl stop worker@one.service
start_worker one found
look "with the new library beside the old one"

if ((layouts)); then
    section "another major version of the layout"
    pid=$(main_pid)
    [[ -z $instance_pid ]] || instance_pid=$(main_pid "$instance")
    apt_install +zmajor
    apt_has_said "goallocd.service goes on with the OLD build"
    apt_has_said "apt install goallocd=$version$next"
    apt_has_said "systemctl stop goallocd.service; systemctl start goallocd.service"
    [[ -z $instance_pid ]] || apt_has_said "$instance goes on with the OLD build"
    [[ $(main_pid) == "$pid" && (-z $instance_pid || $(main_pid "$instance") == "$instance_pid") ]] ||
        fail "a daemon has been restarted"
    ok "the old daemons serve on"
    look "with the old daemon"
    tries=$(property goallocd.service NRestarts)
    in_box sh -c "kill -KILL $pid"
    wait_until 120 is_tried $((tries + 4)) || fail "the new build is not tried again and again"
    check "the old daemon is killed: systemd tries the new build, without a limit" \
        test "$(property goallocd.service StartLimitIntervalUSec)" = 0
    apt_install "$next" --allow-downgrades
    wait_until 60 is_another "$pid" || fail "back to the old packages: no daemon again"
    look "back to the old packages"
    if [[ -n $instance_pid ]]; then
        check "and the instance, whose daemon went on, has been restarted" \
            is_another "$instance_pid" "$instance"
    fi
    check "and the limit holds again" test "$(property goallocd.service StartLimitIntervalUSec)" = 1min
    apt_install +zmajor
    check "systemctl stop, as it says" in_box systemctl stop goallocd.service
    all_are_told 1
    check "systemctl start" in_box systemctl start goallocd.service
    check "the new build runs" runs_installed
    check "the workers are restarted" in_box systemctl stop worker@one.service worker@two.service
    start_worker one made
    start_worker two made
    look "in the new heap"
fi

# --- 6. removal ---

section "purge"
check "apt-get purge, with a heap in use" in_box apt-get purge -q -y --autoremove -o Dpkg::Use-Pty=0 \
    goallocd libgoalloc1 libgoalloc-dev libgoalloc-debug goalloc-tools python3-goalloc
grep -q 'goallocd.service is stopped, and its heap dropped: [0-9]* sessions*, .* live' "$tmp/output" ||
    fail "apt does not say what goes: $(<"$tmp/output")"
ok "apt says what goes"
all_are_told $((gone + 1))
in_box systemctl stop worker@one.service worker@two.service 2>/dev/null
in_box systemctl reset-failed 2>/dev/null
left=$(in_box sh -c 'grep -l "^goalloc" /proc/[0-9]*/comm 2>/dev/null')
[[ -z $left ]] || fail "processes are left: $left"
units=$(list_units)
[[ -z $units ]] || fail "units are left: $units"
left=$(in_box sh -c 'ls -d /run/goalloc* /tmp/goalloc* /var/lib/goalloc* /etc/goalloc* 2>/dev/null')
[[ -z $left ]] || fail "files are left: $left"
list_files >"$tmp/files.after"
residue=$(diff "$tmp/files.before" "$tmp/files.after" | grep '^[<>]')
[[ -z $residue ]] || fail "files before (<) and after (>) differ: $residue"
users=$(diff "$tmp/passwd" "$root/etc/passwd" | sed -n 's/^[<>] \([^:]*\):.*/\1/p' | sort | paste -sd' ')
groups=$(diff "$tmp/group" "$root/etc/group" | sed -n 's/^[<>] \([^:]*\):.*/\1/p' | sort | paste -sd' ')
[[ $users/$groups == "goallocd/goallocd goallocd-admin" ]] || fail "users that are left: $users, groups: $groups"
ok "nothing is left but the user goallocd and the groups goallocd and goallocd-admin"
ok "all of it took $((SECONDS - begun)) s"
