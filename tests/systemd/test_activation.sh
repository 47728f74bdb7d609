#!/bin/bash
# test_activation.sh BUILD_DIR: the installed service with its socket unit under a real systemd (box.sh): clients that
# come before the daemon and while there is none, collector and image, the watchdog, reload, two instances, stop.
# shellcheck source=tests/systemd/box.sh
source "$(dirname "${BASH_SOURCE[0]}")/box.sh"

in_a=(--socket /run/goallocd/a.sock)
in_b=(--socket /run/goallocd/b.sock)
config=/run/box/goallocd.conf

box_units goallocd.service goallocd.socket goallocd@.service goallocd@.socket goallocd-collector.service \
    goallocd-save.service goallocd-save.timer
# On a machine that does other things as well a pause may take longer than 5 ms.
box_settings goallocd-collector.service patient ExecStart= \
    "ExecStart=$programs/goallocd-collector --socket /run/goallocd/goallocd.sock --delay 100ms --max-pause 5s"
sed -i '/^ExecStart=/s/$/ --max-pause 5000/' "$units/goallocd-save.service"
box_worker churn churn
box_worker read read
box_worker stale stale
for name in a b; do
    box_worker "churn-$name" churn "Environment=GOALLOC_SOCKET=/run/goallocd/$name.sock"
    box_worker "read-$name" read "Environment=GOALLOC_SOCKET=/run/goallocd/$name.sock"
done
# Somebody who asks again and again.
cat >"$units/knock.service" <<UNIT
[Service]
ExecStart=/bin/sh -c 'while :; do $programs/goallocctl --timeout 1s ping; done'
StandardOutput=null
StandardError=null
UNIT
for unit in goallocd.service goallocd@.service; do
    check "$unit scores 0.5 at most" systemd-analyze security --offline=yes --threshold=5 --no-pager \
        "$prefix/lib/systemd/system/$unit"
done
for unit in goallocd-collector.service goallocd-save.service; do
    check "$unit scores 1.2 at most" systemd-analyze security --offline=yes --threshold=12 --no-pager \
        "$prefix/lib/systemd/system/$unit"
done
can_reload=
if "$prefix/bin/goallocctl" --help | grep -qw reload && "$prefix/bin/goallocd" --help | grep -q -e --config; then
    can_reload=1
    sed -i "/^ExecStart=/s|\$| --config $config|" "$units/goallocd.service"
fi
box_start
printf '[log]\nlog-level = info\n' >"$box_run/goallocd.conf"

# There is nothing in the units that this systemd does not know.
verify_units() {
    local output

    output=$(in_box systemd-analyze verify --man=no goallocd.service goallocd.socket goallocd@x.service \
        goallocd@x.socket goallocd-collector.service goallocd-save.service goallocd-save.timer 2>&1) || true
    echo "$output"
    ! grep -q -i goallocd <<<"$output"
}
check "systemd knows all that the units say" verify_units

socket_inode() {
    in_box stat -c %i /run/goallocd/goallocd.sock
}

socket_is_as_said() {
    in_box stat -c '%U:%G %a' /run/goallocd/goallocd.sock /run/goallocd | tr '\n' ' ' |
        grep -qx 'goallocd:goallocd 660 goallocd:goallocd 750 '
}

# --- a worker that comes first, and comes back ---

check "systemctl start goallocd.socket" in_box systemctl start goallocd.socket
check "no daemon runs" is_state goallocd inactive
check "socket and directory have their owner and mode" socket_is_as_said
check "a worker comes" in_box systemctl start churn.service
wait_until 30 "data" has_said churn ready 1 || fail "the worker does not get ready"
check "and the daemon has been started for it" is_state goallocd active
check "systemd keeps the heap's six descriptors, and no socket" test "$(property goallocd NFileDescriptorStore)" = 6
look "at the beginning"

inode=$(socket_inode)
pid=$(main_pid)
check "systemctl restart" in_box systemctl restart goallocd.service
check "it is another process" is_another "$pid"
check_heap
look "after systemctl restart"
for i in 1 2; do
    kill_daemon KILL || fail "no daemon again after kill -9, number $i"
done
look "after kill -9, twice"
check "the socket is still the same" test "$(socket_inode)" = "$inode"

status_tells() {
    property goallocd StatusText | grep -q -E '^1 session, [0-9]+ [KM]iB live$'
}
wait_until 30 "status" status_tells || fail "the status is '$(property goallocd StatusText)'"
ok "the status: $(property goallocd StatusText)"

# --- the collector, which has one capability ---

collector_has_looked() {
    grep -q 'threads stopped for' "$box_run/goallocd-collector.log"
}
check "the collector starts" in_box systemctl start goallocd-collector.service
wait_until 30 "a cycle" collector_has_looked || fail "it has stopped nobody: $(<"$box_run/goallocd-collector.log")"
ok "it has looked: $(grep 'threads stopped for' "$box_run/goallocd-collector.log")"
check "it runs as the daemon's user" test "$(in_box stat -c %U "/proc/$(property goallocd-collector MainPID)")" = goallocd
look "after a collection"
check "it stops" in_box systemctl stop goallocd-collector.service
wait_until 30 "status" status_tells || fail "its session stays: '$(property goallocd StatusText)'"

# --- an image, which takes two capabilities while another user's process has the heap ---

image=/var/lib/goallocd/heap.img
check "systemctl start goallocd-save" in_box systemctl start goallocd-save.service
check "it has stopped the worker, and saved" grep -qE "process(es were| was) stopped for" "$box_run/goallocd-save.log"
ok "it says: $(tail -n 1 "$box_run/goallocd-save.log")"
check "the image is for the daemon's user alone" test "$(in_box stat -c '%U:%G %a' "$image")" = "goallocd:goallocd 600"
check "and whole" ctl image "$image"
look "after an image"

# --- who may talk to systemd ---

# A process of the unit that is not the daemon itself, as its helper is.
lie() {
    # shellcheck disable=SC2016
    in_box python3 -c '
import os, socket
with open("/sys/fs/cgroup/system.slice/goallocd.service/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
lie = b"STATUS=lie\nFDSTOREREMOVE=1\nFDNAME=goalloc-heap"
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(lie, "/run/systemd/notify")'
}
check "another process of the unit tells systemd what is not so" lie
check "systemd does not listen to it" status_tells # it reads notifications before it answers
check "and keeps the heap" test "$(property goallocd NFileDescriptorStore)" = 6

# --- reload ---

reload() {
    in_box systemctl reload goallocd.service
}
reload_is_refused() {
    ! reload
}
if [[ -n $can_reload ]]; then
    pid=$(main_pid)
    printf '[log]\nlog-level = debug\n' >"$box_run/goallocd.conf"
    check "systemctl reload" reload
    printf '[log]\nlog-level = loud\n' >"$box_run/goallocd.conf"
    check "systemctl reload fails with a mistake in the file" reload_is_refused
    check "and the service goes on" is_state goallocd active
    check "in the same process" test "$(main_pid)" = "$pid"
    printf '[log]\nlog-level = info\n' >"$box_run/goallocd.conf"
    check "systemctl reload" reload
    look "after the reloads"
else
    echo "skipped: goallocctl has no reload"
fi

# --- two instances, and a loop that stands still ---

box_settings_now() {
    box_settings "$@"
    cp -r "$units/$1.d" "$box_run/units/"
    chmod -R go+rX "$box_run/units/$1.d"
    in_box systemctl daemon-reload
}
for name in a b; do
    check "systemctl start goallocd@$name.socket" in_box systemctl start "goallocd@$name.socket"
    check "a worker comes there" in_box systemctl start "churn-$name.service"
    wait_until 30 "data" has_said "churn-$name" ready 1 || fail "the worker of $name does not get ready"
done
roots_of_first=$roots
roots=
look "heap a" churn-a read-a "${in_a[@]}"
roots_of_a=$roots
roots=
look "heap b" churn-b read-b "${in_b[@]}"

heaps=$(cat "$box_run"/goallocd*.log | grep -o 'new heap [0-9a-f]*' | sort -u | wc -l)
check "each has a heap of its own" test "$heaps" = 3

# The daemon of b is stopped, and does not know it. The limit is short for this alone.
box_settings_now goallocd@b.service watchdog WatchdogSec=2s LimitCORE=0
check "systemctl restart goallocd@b" in_box systemctl restart goallocd@b.service
pid=$(main_pid goallocd@b)
start=$(now_ms)
in_box kill -STOP "$pid"
wait_until 60 "watchdog" is_another "$pid" goallocd@b || fail "the watchdog does not end a loop that stands still"
ok "the watchdog has ended a loop that stood still, and another one serves ($(($(now_ms) - start)) ms)"
check_heap "${in_b[@]}"
look "heap b, after that" churn-b read-b "${in_b[@]}"
kill_daemon KILL goallocd@a "${in_a[@]}" || fail "no daemon again after kill -9"
roots=$roots_of_a
look "heap a, after kill -9" churn-a read-a "${in_a[@]}"
end_worker churn-a
end_worker churn-b
for name in a b; do
    check "systemctl stop goallocd@$name.socket goallocd@$name" \
        in_box systemctl stop "goallocd@$name.socket" "goallocd@$name.service"
done
roots=$roots_of_first
look "the first heap has not noticed"
end_worker churn

# --- stop ---

check "another worker attaches" in_box systemctl start stale.service
wait_until 30 "data" has_said stale ready 1 || fail "the worker does not get ready"
check "somebody knocks without a pause" in_box systemctl start knock.service
check "systemctl stop goallocd.socket goallocd" in_box systemctl stop goallocd.socket goallocd.service
check "the daemon does not run" is_state goallocd inactive
check "nor does the socket" is_state goallocd.socket inactive
check "no socket is left" in_box test ! -e /run/goallocd/goallocd.sock
check "there is nothing to be saved" in_box systemctl start goallocd-save.service
check "and nothing is tried" test "$(property goallocd-save ConditionResult)" = no
check "nothing of the heap is kept" test "$(property goallocd NFileDescriptorStore)" = 0
check "the daemon has dropped it" grep -q "the heap is dropped" "$box_run/goallocd.log"
# One that a client has started, and that the stop has ended before it served, leaves the file of its lock, without a
# lock: by a knock here, and by the last call of a worker or a look where the instances are stopped.
check "the directory stays, and nothing in it that is somebody's" in_box sh -c \
    'cd /run/goallocd || exit 1
    for file in $(ls -A); do
        echo "$file"
        case $file in
            goallocd.sock.lock | [ab].sock.lock) flock -n "$file" true || exit 1 ;;
            *) exit 1 ;;
        esac
    done'
check "systemctl start" in_box systemctl start goallocd.service
check "has made the socket, too" is_state goallocd.socket active
in_box systemctl kill -s USR1 stale.service
wait_until 30 "stale" has_said stale "done" 1 || fail "the worker of the old heap is not told"
ok "the worker of the old heap knows without a call, gets ESTALE, and attaches to the new one"
in_box systemctl stop knock.service

check "systemctl stop goallocd alone" in_box systemctl stop goallocd.service
check "leaves the socket" is_state goallocd.socket active
check "and the next who comes" ctl ping
check "starts a daemon" is_state goallocd active
pid=$(main_pid)
check "systemctl restart goallocd.socket" in_box systemctl restart goallocd.socket
wait_until 30 "restart" is_another "$pid" || fail "the daemon does not come back with its socket"
check "with the same heap" test "$(grep -c 'new heap' "$box_run/goallocd.log")" = 3

# --- a daemon that can't start ---

mv "$box_run/prefix/bin/goallocd" "$box_run/prefix/bin/goallocd.gone"
in_box systemctl start knock.service
in_box kill -KILL "$(main_pid)"
wait_until 30 "limit" is_state goallocd failed || fail "a crash loop does not end"
wait_until 30 "socket" is_state goallocd.socket failed || fail "the socket of a daemon that can't start stays"
ok "a crash loop ends, and who knocks does not go on with it"
in_box systemctl stop knock.service
mv "$box_run/prefix/bin/goallocd.gone" "$box_run/prefix/bin/goallocd"
in_box systemctl reset-failed goallocd.service goallocd.socket
check "and both units can be started again" in_box systemctl start goallocd.service
check "the socket with it" is_state goallocd.socket active

# --- nobody has made the directory ---

check "systemctl stop goallocd.socket goallocd" in_box systemctl stop goallocd.socket goallocd.service
check "the directory is gone" in_box rm -r /run/goallocd
check "systemctl start" in_box systemctl start goallocd.service
check "the daemon serves, without its lock file" ctl ping
check "and says so" grep -q 'goallocd.sock.lock: .*going on' "$box_run/goallocd.log"
