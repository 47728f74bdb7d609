#!/bin/bash
# Run the models through spin: each must hold in all of its states, and each broken variant must be found to be broken.
# Exit status 0: all is as expected. Needs spin and gcc; builds in a directory of its own, which is removed.
set -u -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
for tool in spin gcc; do
    if ! command -v "$tool" >/dev/null; then
        echo "run.sh: $tool is missing: apt-get install $tool" >&2
        exit 2
    fi
done
work=$(mktemp -d) || exit 2
trap 'jobs -p | xargs -r kill 2>/dev/null; wait; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# LEVEL MODEL OPTION...: build and run in the current directory; what pan says goes to ./out. Every state is stored
# exactly: COLLAPSE is lossless, and nothing is hashed away. Most errors are found sooner than -O2 compiles.
check() {
    local level=$1 model=$2
    shift 2
    spin "$@" -a "$here/$model.pml" >spin.out 2>&1 || return
    gcc "$level" -DSAFETY -DNOFAIR -DCOLLAPSE -DMEMLIM=2048 -o pan pan.c 2>gcc.out || return
    timeout 300 ./pan -w24 -m1000000 >out 2>&1
}

# NAME MODEL OPTION...: must be explored to the end without an error.
holds() {
    local name=$1 dir states seconds verdict=FAILED
    shift
    dir=$(mktemp -d -p "$work") && cd "$dir" || return
    check -O2 "$@"
    states=$(sed -n -E 's/^ *([0-9.e+]+) states, stored.*/\1/p' out 2>/dev/null)
    seconds=$(sed -n -E 's/^pan: elapsed time ([0-9.]+) seconds.*/\1/p' out 2>/dev/null)
    if grep -q 'errors: 0$' out && ! grep -q -E 'Search not completed|max search depth|memory limit' out; then
        verdict='errors: 0'
    else
        cat spin.out gcc.out out >&2 2>/dev/null
    fi
    printf '%-40s %9s states %7s s   %s\n' "$name" "${states:-no}" "${seconds:--}" "$verdict"
    [[ $verdict == 'errors: 0' ]]
}

# VARIANT MODEL OPTION...: an assertion must fail.
breaks() {
    local variant=$1 name="$2 $1" dir verdict='NOT FOUND'
    shift
    dir=$(mktemp -d -p "$work") && cd "$dir" || return
    check -O0 "$@" "-D$variant"
    if grep -q 'assertion violated' out 2>/dev/null && grep -q 'errors: 1$' out; then
        verdict='error found, as expected'
    else
        cat spin.out gcc.out out >&2 2>/dev/null
    fi
    printf '%-40s %s\n' "$name" "$verdict"
    [[ $verdict != 'NOT FOUND' ]]
}

one=(-DDAEMON_DEATHS=1 -DNO_CUTS -DNO_LATE)
status=0

# The largest by itself, the others one after another beside it.
holds 'lease: a daemon dies' lease "${one[@]}" >"$work/largest" 2>&1 &
largest=$!

echo '== models'
holds 'lease: connections are cut' lease -DDAEMON_DEATHS=0 -DNO_LATE || status=1
holds 'lease: two daemons die, one leases' lease -DDAEMON_DEATHS=2 -DNO_CUTS -DNO_LATE -DONE_LEASES || status=1
holds 'lease: cuts and late replies, one leases' lease -DDAEMON_DEATHS=0 -DONE_LEASES || status=1
holds 'tiny: two daemons die' tiny -DDAEMON_DEATHS=2 || status=1
holds 'offers: two daemons die' offers -DDAEMON_DEATHS=2 || status=1
holds 'magazine: its thread dies' magazine || status=1
holds 'intents: unlink_free, two daemons die' intents || status=1
holds 'intents: link, two daemons die' intents -DLINK || status=1
holds 'collector: forks, two attach' collector -DFORK -DATTACHES=2 || status=1
holds 'collector: owners, a group with a child' collector -DOWNERS -DFORK || status=1
holds 'collector: roots, intents, an operator' collector -DROOTS -DINTENTS -DOPERATOR || status=1
holds 'collector: leased spans, too' collector -DALL -DFORK || status=1
holds 'collector: two of them' collector -DCOLLECTORS=2 || status=1
holds 'search: three passes' search || status=1

echo '== broken on purpose'
for variant in FOLD_REMOTE_FIRST RETURN_LATE_FORGET TAKE_OVER_ALL SWEEP_LEASED TELL_BEFORE_BIT NO_RECONCILE; do
    breaks "$variant" lease "${one[@]}" || status=1
done
breaks TAKE_FROM_LOST lease -DDAEMON_DEATHS=0 -DNO_LATE || status=1
for variant in HINT_LATE NO_HINT FOLD_DROPS_HINT FOLD_OPEN SETTLE_BY_HINT END_LIVING; do
    breaks "$variant" tiny || status=1
done
for variant in OWNER_AFTER_WORD NO_LEASE_CHECK NO_UNKNOWN STORE_TAKEN; do
    breaks "$variant" offers || status=1
done
for variant in LOAD_EARLY EMPTY_BY_BITS LEAVE_UNFLUSHED CACHED_PUSH; do
    breaks "$variant" magazine || status=1
done
for variant in FOLD_HELD UNHOLD_EARLY HOLD_LATE FREE_FIRST NAMELESS_HOLD SETTLE_UNHOLDS_FIRST; do
    breaks "$variant" intents || status=1
done
for variant in PUBLISH_FIRST SLOT_FIRST END_FIRST SETTLE_UNHOLDS_FIRST; do
    breaks "$variant" intents -DLINK || status=1
done

for variant in NO_VALIDATION HEAP_LATE SKIP_UNMAPPED NO_STOP ALLOC_FIRST LEASE_LATE LEASED_FREED FREE_FORGETS; do
    breaks "$variant" collector || status=1
done
for variant in NO_SEARCH NO_TRACEFORK STAY_STOPPED; do
    breaks "$variant" collector -DFORK || status=1
done
for variant in NO_ROLE ROLE_LOST FREE_AFTER_END; do
    breaks "$variant" collector -DCOLLECTORS=2 || status=1
done
for variant in OWNED_FREED BEGIN_ENDING GROUP_UNSEEN; do
    breaks "$variant" collector -DOWNERS -DFORK || status=1
done
for variant in SET_FORGETS REPLY_UNSEEN DEAD_IN_PAUSE; do
    breaks "$variant" collector -DROOTS || status=1
done
breaks INTENTS_UNSEEN collector -DINTENTS || status=1
breaks RECLAIM_ANYTIME collector -DOPERATOR || status=1
for variant in ONE_PASS TWO_PASSES; do
    breaks "$variant" search || status=1
done

echo '== the largest model'
wait "$largest" || status=1
cat "$work/largest"

if ((status == 0)); then
    echo 'all as expected'
else
    echo 'NOT as expected' >&2
fi
exit "$status"
