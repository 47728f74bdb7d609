#!/bin/bash
# test_restart.sh BUILD_DIR: the installed unit under a real systemd (box.sh), and workers that go on while it is
# restarted, killed and stopped. There is no socket unit: the daemon makes its socket itself.
# shellcheck source=tests/systemd/box.sh
source "$(dirname "${BASH_SOURCE[0]}")/box.sh"

box_units goallocd.service
box_worker churn churn
box_worker read read
box_worker stale stale
box_start

start=$(now_ms)
check "systemctl start" in_box systemctl start goallocd.service
started_ms=$(($(now_ms) - start))
check "the unit is active ($started_ms ms)" is_state goallocd active
check "systemd keeps six descriptors" test "$(property goallocd NFileDescriptorStore)" = 6

check "a worker attaches" in_box systemctl start churn.service
wait_until 30 "data" has_said churn ready 1 || fail "the worker does not get ready"
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

end_worker churn
check "and has left nothing" test "$(statistic live_objects)/$(statistic roots)" = 0/0

# A stop, with workers or without, is the end of a heap.
check "a second worker attaches" in_box systemctl start stale.service
wait_until 30 "data" has_said stale ready 1 || fail "the worker does not get ready"
check "systemctl stop" in_box systemctl stop goallocd.service
check "it has dropped the heap" grep -q "the heap is dropped" "$box_run/goallocd.log"
check "nothing is kept" test "$(property goallocd NFileDescriptorStore)" = 0
check "systemctl start" in_box systemctl start goallocd.service
check "the heap is a new one" test "$(statistic live_objects)/$(statistic roots)" = 0/0
in_box systemctl kill -s USR1 stale.service
wait_until 30 "stale" has_said stale "done" 1 || fail "the worker of the old heap is not told"
ok "the worker of the old heap knows without a call, gets ESTALE, and attaches to the new one"
pid=$(main_pid)
ctl --yes drop || fail "goallocctl drop"
wait_until 30 "restart" is_another "$pid" || fail "no daemon again after goallocctl drop"
check "goallocctl drop: systemd has started a daemon with a new heap" grep -q "new heap" "$box_run/goallocd.log"

# A daemon that can't start is not started for ever.
mv "$box_run/prefix/bin/goallocd" "$box_run/prefix/bin/goallocd.gone"
start=$(now_ms)
in_box kill -KILL "$(main_pid)"
wait_until 30 "limit" is_state goallocd failed || fail "a crash loop does not end"
gap_ms=$(($(now_ms) - start))
ok "a crash loop ends ($gap_ms ms, $(property goallocd NRestarts) restarts)"
mv "$box_run/prefix/bin/goallocd.gone" "$box_run/prefix/bin/goallocd"
in_box systemctl reset-failed goallocd.service
check "and the unit can be started again" in_box systemctl start goallocd.service

# With an image a stop saves the heap, and a start loads it.
in_box systemctl stop goallocd.service
mkdir -p "$box_run/units/goallocd.service.d"
printf '[Service]\nExecStart=\nExecStart=%s\n' \
    "$programs/goallocd --socket /run/goallocd/goallocd.sock --image /var/lib/goallocd/heap.img" \
    >"$box_run/units/goallocd.service.d/image.conf"
in_box systemctl daemon-reload
check "systemctl start, with an image" in_box systemctl start goallocd.service
before=$(said churn ready)
in_box systemctl start churn.service
wait_until 30 "data" has_said churn ready $((before + 1)) || fail "the worker does not get ready"
in_box systemctl kill -s KILL churn.service
wait_until 30 "churn" has_ended churn || fail "the worker does not end"
objects=$(statistic live_objects)/$(statistic roots)
check "systemctl stop" in_box systemctl stop goallocd.service
check "it has saved the heap" grep -q "the heap is saved into /var/lib/goallocd/heap.img" "$box_run/goallocd.log"
check "systemd keeps nothing" test "$(property goallocd NFileDescriptorStore)" = 0
check "systemctl start" in_box systemctl start goallocd.service
check "the heap comes out of the image" grep -q "the heap comes out of the image" "$box_run/goallocd.log"
check "all objects and roots are there ($objects)" test "$(statistic live_objects)/$(statistic roots)" = "$objects"
check "and are whole, for another process" in_box systemctl start read.service
pid=$(main_pid)
check "systemctl restart" in_box systemctl restart goallocd.service
check "it is another process, which has taken the heap over" is_another "$pid"
check "and has saved nothing" test "$(grep -c "the heap is saved into" "$box_run/goallocd.log")" = 1
