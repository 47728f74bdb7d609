#!/bin/bash
# test_journal.sh BUILD_DIR: a real journal, and what an operator asks it: journalctl finds a takeover by its number and
# who has dropped the heap; and the daemon finds the journal again when that was killed.
#
# The journal is a systemd-journald of its own in namespaces of its own (mounts, processes): /run is empty there, so it
# makes its sockets and its files beside this machine's, which it neither reads nor is read by. No other part of systemd
# runs. All of it dies with the first process there.
#
# Prints a line for each check. Exit status 0, 1 (a check failed), 77 (this machine cannot run it, and why), 2 (usage).
set -u -o pipefail

if (($# < 1)) || [[ ! -x $1/daemon/goallocd ]]; then
    echo "usage: test_journal.sh BUILD_DIR (a compiled build)" >&2
    exit 2
fi
build=$(cd "$1" && pwd) || exit 1
journald=/lib/systemd/systemd-journald
takeover=88a84f36e8e24b13a9be52b02f949c09

skip() {
    echo "skipped: $1"
    exit 77
}
ok() {
    echo "ok: $1"
}
fail() {
    echo "FAILED: $1"
    journalctl --no-pager -o verbose 2>/dev/null | grep -e MESSAGE -e GOALLOC | tail -n 40 | sed 's/^/    /'
    exit 1
}
# NAME COMMAND...: until the command succeeds, for 20 s.
await() {
    local until=$((SECONDS + 20)) name=$1
    shift
    until "$@"; do
        ((SECONDS < until)) || fail "$name"
        sleep 0.02
    done
    ok "$name"
}

if [[ ${2-} != inside ]]; then
    ((EUID == 0)) || skip "needs root"
    for program in "$journald" journalctl systemd-cat unshare setpriv pkill; do
        command -v "$program" >/dev/null || skip "there is no $program"
    done
    unshare --mount --pid --fork true 2>/dev/null || skip "no namespaces can be made"
    exec setpriv --pdeathsig KILL timeout -k 5 120 unshare --mount --pid --fork --mount-proc --propagation private \
        --kill-child bash "${BASH_SOURCE[0]}" "$build" inside
fi

# --- inside ---

mount -t tmpfs -o mode=755 tmpfs /run || skip "nothing can be mounted"
mkdir -p /run/systemd/journald.conf.d /run/log/journal /run/test
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nRuntimeMaxUse=16M\n' >/run/systemd/journald.conf.d/test.conf
tr -d - </proc/sys/kernel/random/uuid >/run/machine-id
mount --bind /run/machine-id /etc/machine-id || skip "this machine has no /etc/machine-id"

journal=
start_journal() {
    mkdir -p /run/systemd/journal
    "$journald" 2>/run/test/journald.log &
    journal=$!
    disown "$journal"
}
journal_listens() {
    [[ -S /run/systemd/journal/socket && -S /run/systemd/journal/stdout ]]
}
ctl() {
    "$build/client/ctl/goallocctl" --socket /run/test/socket "$@"
}
# As systemd does for a service: stderr is a stream to the journal, and JOURNAL_STREAM says so.
start_daemon() {
    systemd-cat --stderr-priority=info bash -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' bash \
        "$build/daemon/goallocd" --socket /run/test/socket --state-dir /run/test/state --on-stop drop "$@" &
    daemon=$!
    disown "$daemon"
}
serves() {
    ctl ping >/dev/null 2>&1
}
is_gone() {
    ! kill -0 "$1" 2>/dev/null
}
# MATCH...: how many lines the journal has of these.
found() {
    journalctl --sync 2>/dev/null
    journalctl --no-pager --quiet -o cat "$@" 2>/dev/null | wc -l
}
has_found() {
    local n=$1
    shift
    (($(found "$@") == n))
}

start_journal
for ((i = 0; i < 500; i++)); do
    journal_listens && break
    sleep 0.02
done
journal_listens || skip "a systemd-journald does not start here: $(tail -n 1 /run/test/journald.log)"

start_daemon
await "a daemon serves" serves
await "the journal has its new heap" has_found 1 GOALLOC_EVENT=new-heap SYSLOG_IDENTIFIER=goallocd
has_found 0 MESSAGE_ID=$takeover || fail "a new heap is no takeover"
kill -KILL "$daemon"
await "a daemon that is killed is gone" is_gone "$daemon"
start_daemon
await "the next one serves" serves
await "journalctl MESSAGE_ID=$takeover finds the takeover" has_found 1 MESSAGE_ID=$takeover
heap=$(journalctl --no-pager -o cat --output-fields=GOALLOC_HEAP MESSAGE_ID=$takeover)
has_found 1 GOALLOC_EVENT=new-heap "GOALLOC_HEAP=$heap" || fail "the heap that was taken over is not the first one"
ok "and it is the heap of the first one, $heap"

kill -KILL "$journal"
rm -f /run/systemd/journal/socket /run/systemd/journal/stdout
pkill -KILL -x goallocd-keeper || fail "there is no keeper" # in this namespace of processes there is no other
await "without a journal the daemon goes on" serves
start_journal
await "a journal that was killed is there again" journal_listens
await "and has what the daemon said meanwhile" has_found 1 GOALLOC_EVENT=keeper-lost
ctl --yes drop >/dev/null || fail "goallocctl drop"
await "and who has dropped the heap" has_found 1 GOALLOC_EVENT=heap-dropped GOALLOC_UID=0
exit 0
