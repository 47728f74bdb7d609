# shellcheck shell=bash
# For test_crate in a build for arm64 (tests/arm64), sourced after common.sh: cargo and rustc of Debian, whose standard
# library for arm64 is in the build's sysroot; what is built runs under qemu. Sets skips, the options of the tests that
# tests/arm64/skips leaves out. $GOALLOC_RUST_SYSROOT is the sysroot, tests/arm64/setup's.

PATH=/usr/bin:/bin:$PATH # another rustc is of another version than that library
sysroot=$GOALLOC_RUST_SYSROOT
libraries=$sysroot/usr/lib/rustlib/aarch64-unknown-linux-gnu/lib
if [[ ! -x /usr/bin/cargo || ! -d $libraries ]]; then
    echo "skipped: there are no cargo and rustc of Debian, or no library of theirs for arm64"
    exit 77
fi

# The loader and the libraries are the sysroot's, as toolchain.cmake says; the last is for qemu_memory.o.
flags=("-L" "$libraries" -D warnings)
for argument in "--sysroot=$sysroot" "-Wl,--dynamic-linker=$sysroot/lib/ld-linux-aarch64.so.1" -Wl,--disable-new-dtags \
    "-Wl,-rpath,$build/client/lib:$sysroot/lib/aarch64-linux-gnu:$sysroot/usr/lib/aarch64-linux-gnu" \
    "$sysroot/../qemu_memory.o" -lc; do
    flags+=(-C "link-arg=$argument")
done
export CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="${flags[*]}"

# Tests ask the C compiler, by programs that run.
printf '#!/bin/sh\nexec aarch64-linux-gnu-gcc --sysroot="%s" -static "$@"\n' "$sysroot" >"$tmp/cc"
chmod +x "$tmp/cc"
export CC=$tmp/cc GOALLOC_TEST_RESERVE=8G # as FIXTURE_EMULATED_RESERVE, support/fixture.h

# shellcheck disable=SC2034
mapfile -t skips < <(sed -n -E 's|^rust/test_crate ([a-z_]+) .*|--skip=\1|p' "$source_dir/tests/arm64/skips")
