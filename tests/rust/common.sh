# shellcheck shell=bash
# What the tests of the crates share. For bash, sourced by test_crate and test_quickstart, which are called with the
# build directory. Sets source_dir, build, and tmp, a directory of the test's own that goes with it.

if (($# != 1)) || [[ ! -f $1/CMakeCache.txt ]]; then
    echo "usage: ${0##*/} BUILD_DIR (a configured and compiled build)" >&2
    exit 2
fi
build=$(cd "$1" && pwd) || exit 1
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1

for program in cargo rustc; do
    if ! command -v "$program" >/dev/null; then
        echo "skipped: there is no $program (Debian: cargo rustc)"
        exit 77
    fi
done

tmp=$(mktemp -d -p "${GOALLOC_TEST_DIR:-/tmp}") || exit 1

# Daemons of a test end with it (tests/common/mod.rs); should one have been left, it is known by its socket.
clean_up() {
    local pid state

    for pid in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$pid/cmdline" | grep -q -F -e "$tmp/"; then
            kill "${pid#/proc/}" 2>/dev/null
        fi
    done
    for state in "$tmp"/*/state; do
        [[ ! -S $state/keeper.sock ]] || "$build/client/ctl/goallocctl" keeper --end --yes --state-dir "$state" >/dev/null 2>&1
    done
    rm -rf "$tmp"
}
trap clean_up EXIT

# What cargo makes and keeps lies in the build, and no registry is asked for anything.
export CARGO_TARGET_DIR=$build/rust CARGO_HOME=$build/rust/home CARGO_NET_OFFLINE=true
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 # twice as fast
export GOALLOC_TEST_DIR=$tmp RUST_BACKTRACE=0
unset GOALLOC_SOCKET
mkdir -p "$CARGO_HOME" || exit 1
