# shellcheck shell=bash
# Root directories of a clean Debian 12, for test_upgrade.sh and test_cross.sh, which source it. What takes long is kept
# in $cache:
#
#   base.tar    Debian with systemd and a compiler, by mmdebstrap; a root to install packages in is unpacked from it
#   build/      the same with what debian/control says the packages are built with, and nothing else
#   cross/      Debian of two architectures, to build packages for arm64 in (test_cross.sh)
#   archives/   Debian's packages that these depend on, so that a root without a network can install them
#
# Each has a file .key beside it with what it was made from; another key, and it is made anew.

# What test scripts say.
skip() {
    echo "skipped: $1"
    exit 77
}

ok() {
    echo "ok: $1"
}

# The compiler and pkg-config are there for programs that use libgoalloc-dev.
base_packages=systemd,systemd-sysv,gcc,libc6-dev,pkg-config

# How this machine reaches Debian goes for the roots, too.
apt_settings() {
    apt-config dump | grep -E '^Acquire::(http|https|ftp|Retries|Check-)' || true
}

# ROOT COMMAND...: in the root, with this machine's network and no process of it in sight.
in_root() {
    local root=$1
    shift

    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    unshare --mount --pid --fork --kill-child --propagation private sh -c '
        root=$1; shift
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && exec chroot "$root" "$@"' sh "$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"
}

# FILE KEY: it was made from what KEY says.
has_key() {
    [[ -e $1 && -f $1.key && $(<"$1.key") == "$2" ]]
}

make_base() {
    local key="$base_packages $mirror"

    has_key "$cache/base.tar" "$key" && return 0
    rm -rf "$cache"/base.*tar "$cache/base.tar.key" "$cache/build" "$cache/build.key" "$cache/archives"
    apt_settings >"$cache/apt.conf"
    mmdebstrap --quiet --variant=minbase --include="$base_packages" --skip=cleanup/apt/lists \
        --aptopt='Acquire::Languages "none"' --aptopt="$cache/apt.conf" \
        bookworm "$cache/base.new.tar" ${mirror:+"$mirror"} || return 1
    mv "$cache/base.new.tar" "$cache/base.tar" && echo "$key" >"$cache/base.tar.key"
}

# ROOT: a new one. The devices are the machine's, or the box's.
unpack_root() {
    rm -rf --one-file-system "$1"
    mkdir -p "$1" || return 1
    tar --extract --numeric-owner --xattrs --file="$cache/base.tar" --directory="$1" --exclude='./dev/*'
}

# Lists of packages that have grown old are fetched again.
build_dep() {
    local -a command=(apt-get build-dep -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io /srv/source)

    in_root "$cache/build" "${command[@]}" ||
        { in_root "$cache/build" apt-get update -q && in_root "$cache/build" "${command[@]}"; }
}

# SOURCE: the root to build it in.
make_build_root() {
    local key

    key="$(<"$cache/base.tar.key") $(sed -n '/^Build-Depends:/,/^[^ ]*:/p' "$1/debian/control")"
    has_key "$cache/build" "$key" && return 0
    rm -f "$cache/build.key"
    unpack_root "$cache/build" || return 1
    mkdir -p "$cache/build/srv/source" "$cache/build/srv/work" "$cache/build/srv/out"
    cp -r "$1/debian" "$cache/build/srv/source/"
    build_dep || return 1
    rm -rf "$cache/build/srv/source/debian"
    echo "$key" >"$cache/build.key"
}

# SOURCE: the root, in $cache/cross, to build it for arm64 in.
make_cross_root() {
    local key
    local -a command=(apt-get build-dep -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io
        --host-architecture arm64 --build-profiles cross,nocheck /srv/source)

    key="$mirror $(sed -n '/^Build-Depends:/,/^[^ ]*:/p' "$1/debian/control")"
    has_key "$cache/cross" "$key" && return 0
    rm -rf --one-file-system "$cache/cross" "$cache/cross.key"
    apt_settings >"$cache/apt.conf"
    mmdebstrap --quiet --variant=minbase --architectures=amd64,arm64 --include=crossbuild-essential-arm64 \
        --skip=cleanup/apt/lists --aptopt='Acquire::Languages "none"' --aptopt="$cache/apt.conf" \
        bookworm "$cache/cross" ${mirror:+"$mirror"} || return 1
    mkdir -p "$cache/cross/srv/source" "$cache/cross/srv/work"
    cp -r "$1/debian" "$cache/cross/srv/source/"
    in_root "$cache/cross" "${command[@]}" || return 1
    echo "$key" >"$cache/cross.key"
}

# ROOT APT-OPTION...: apt on /srv/debs/*.deb.
apt_debs() {
    local root=$1
    shift
    in_root "$root" sh -c 'exec apt-get install -q -y --no-install-recommends "$@" /srv/debs/*.deb' sh "$@"
}

# ROOT: have it hold all that apt needs to install /srv/debs/*.deb without a network.
fetch_archives() {
    local uris

    mkdir -p "$cache/archives"
    cp "$cache"/archives/*.deb "$1/var/cache/apt/archives/" 2>/dev/null || true
    uris=$(apt_debs "$1" --print-uris) || return 1
    grep -q "^'http" <<<"$uris" || return 0
    apt_debs "$1" --download-only || { in_root "$1" apt-get update -q && apt_debs "$1" --download-only; } || return 1
    cp -u "$1"/var/cache/apt/archives/*.deb "$cache/archives/"
}
