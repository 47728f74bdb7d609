#!/bin/bash
# test_cross.sh [--jobs N] CACHE_DIR: the Debian packages for arm64, built here by Debian's cross compiler in a clean
# Debian 12 of both architectures, with nothing but what debian/control asks for; what is in them.
#
# The root (roots.sh) is kept in CACHE_DIR/cross: the first run fetches 300 MB and takes some minutes, so tests/run does
# it with --arch arm64 only. Takes root, mmdebstrap, a network once. GOALLOC_TEST_MIRROR is where Debian comes from.
#
# Prints a line for each check. Exit status 0, 1 (a check failed), 77 (this machine cannot run it, and why), 2 (usage).
set -u -o pipefail

usage() {
    echo "usage: test_cross.sh [--jobs N] CACHE_DIR" >&2
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
root=$cache/cross
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP
# shellcheck source=tests/packages/roots.sh
source "$here/roots.sh"

fail() {
    echo "FAILED: $1"
    exit 1
}

((EUID == 0)) || skip "it takes root"
for program in mmdebstrap unshare flock readelf dpkg-deb apt-config qemu-aarch64-static; do
    command -v "$program" >/dev/null || skip "there is no $program"
done
exec 9>"$cache/lock"
flock --nonblock 9 || skip "another run uses $cache"

# --- the build ---

make_cross_root "$sources" >"$tmp/root.log" 2>&1 || fail "no root: $(tail -n 20 "$tmp/root.log")"
rm -rf "$root/srv/source" "$root/srv/out"
mkdir -p "$root/srv/source" "$root/srv/out"
(cd "$sources" && packaging/list-sources | tar --create --null --files-from=-) |
    tar --extract --directory="$root/srv/source"
in_root "$root" env DEB_BUILD_OPTIONS="noautodbgsym parallel=$jobs" /srv/source/packaging/build-debs --arch arm64 \
    --out /srv/out --work /srv/work >"$tmp/build.log" 2>&1 ||
    fail "no packages: $(grep -A5 -i -w error "$tmp/build.log" | cut -c 1-200 | head -n 40)"
ok "packages for arm64"

# --- what is in them ---

shopt -s nullglob
debs=("$root"/srv/out/*_arm64.deb)
wanted=$(grep -c '^Package: ' "$sources/debian/control")
((${#debs[@]} == wanted)) || fail "there are ${#debs[@]} packages, not $wanted"
for deb in "${debs[@]}"; do
    [[ $(dpkg-deb --field "$deb" Architecture) == arm64 ]] || fail "$deb is for another architecture"
    dpkg-deb --extract "$deb" "$tmp/files" || fail "$deb can't be unpacked"
done
ok "$wanted packages say that they are for arm64"
programs=0
while IFS= read -r -d '' file; do
    machine=$(readelf --file-header "$file" 2>/dev/null | sed -n -E 's/^ *Machine: *//p' | sort -u)
    [[ -z $machine ]] && continue
    [[ $machine == AArch64 ]] || fail "${file#"$tmp/files"} is for $machine"
    programs=$((programs + 1))
done < <(find "$tmp/files" -type f -print0)
((programs >= 6)) || fail "$programs programs and libraries for arm64 are too few"
ok "$programs programs and libraries are for AArch64"
for file in usr/share/man/man8/goallocd.8.gz usr/share/man/man1/goallocctl.1.gz \
    usr/share/bash-completion/completions/goallocctl usr/share/zsh/vendor-completions/_goallocctl; do
    [[ -s $tmp/files/$file ]] || fail "$file is missing"
done
ok "manual pages and completion are there"
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$root"/srv/out/*.changes >"$tmp/lintian.log" 2>&1 ||
        fail "lintian: $(head -n 20 "$tmp/lintian.log")"
    ok "lintian finds no errors"
fi

# --- it runs ---

rm -rf "$root/srv/files"
cp -r "$tmp/files" "$root/srv/files" || exit 1
in_root "$root" qemu-aarch64-static /srv/files/usr/bin/goallocd --version >"$tmp/run.log" 2>&1 ||
    fail "goallocd --version: $(tail -n 20 "$tmp/run.log")"
ok "$(tail -n 1 "$tmp/run.log")"
