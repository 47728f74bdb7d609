# shellcheck shell=bash
# The Debian packages that the project needs. For bash, sourced by tests/run.

# What a build takes: the compiler, and what debian/control asks for (tests/packages/check-lists compares).
goalloc_build_packages=(
    gcc cmake make pkg-config libc6-dev
    libuv1-dev libprotobuf-c-dev protobuf-c-compiler libjansson-dev uthash-dev libunistring-dev libseccomp-dev
    libinih-dev libmicrohttpd-dev libncurses-dev libdw-dev zlib1g-dev systemtap-sdt-dev python3 valgrind
    libpython3-dev libxxhash-dev libzstd-dev
)

# What its tests take besides.
goalloc_test_packages=(
    libcmocka-dev g++ binutils python3-jsonschema python3-prometheus-client zsh libxml2-utils
    clang libclang-rt-dev libc++-dev libc++abi-dev clang-tidy cppcheck abigail-tools
    mandoc man-db mmdebstrap lintian bpftrace gdb golang-go graphviz
    libunwind8 cargo rustc
    libpython3.11-testsuite python3-pip python3-setuptools python3-wheel python3-venv
    python3-numpy python3-joblib mypy
)

goalloc_packages=("${goalloc_build_packages[@]}" "${goalloc_test_packages[@]}")

# What tests/run --arch arm64 takes besides, and the libraries for arm64 that it unpacks (tests/arm64/setup).
goalloc_arm64_packages=(gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user-static mmdebstrap)
# shellcheck disable=SC2034
goalloc_target_packages=(
    libc6-dev libuv1-dev libprotobuf-c-dev libjansson-dev uthash-dev libunistring-dev libseccomp-dev libinih-dev
    libmicrohttpd-dev libncurses-dev libdw-dev zlib1g-dev libcmocka-dev systemtap-sdt-dev libxxhash-dev libzstd-dev
    libstdc++-12-dev libstd-rust-dev
)

# What tests/bench/run needs besides: the peers, callgrind, the plots, programs to record.
# shellcheck disable=SC2034
goalloc_bench_packages=(
    libmimalloc-dev libjemalloc-dev libtcmalloc-minimal4 libboost-dev gnuplot-nox sqlite3
    libhiredis-dev redis-tools redis-server python3-redis
)

# The other allocators in shared memory, for tests/bench/run --shared. (Kamailio is unpacked and not installed: Debian's
# package starts a SIP server.)
# shellcheck disable=SC2034
goalloc_shared_packages=(libapr1-dev libaprutil1-dev postgresql-15 postgresql-server-dev-15)

# What tests/programs/run takes besides a build: what Kamailio, unpacked, is linked with; a web server,
# redis (redis-server would start one), and what the Python package is built with.
# shellcheck disable=SC2034
goalloc_programs_packages=(
    libpcre3 libreadline8
    python3-gunicorn python3-redis redis-tools python3-dev python3-setuptools
)

# Unpack a package into a directory, without installing it; if that can't be done, the directory is not there.
goalloc_unpack_package() {
    local package=$1 to=$2 from

    if [ -d "$to" ]; then
        return 0
    fi
    from=$(mktemp -d)
    if (cd "$from" && apt-get download -q "$package" >&2) && mkdir -p "$(dirname "$to")" &&
        dpkg -x "$from/$package"_*.deb "$to.new"; then
        mv "$to.new" "$to"
    else
        echo "packages: $package can't be unpacked" >&2
    fi
    rm -rf "$from"
}

# tests/metrics takes prometheus and promtool. Unless they are installed they are unpacked, since Debian's package starts
# a server. Without them these tests are skipped.
goalloc_find_prometheus() {
    local to=$1

    if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
        return 0
    fi
    if command -v apt-get >/dev/null; then
        goalloc_unpack_package prometheus "$to"
        PATH=$PATH:$to/usr/bin
    fi
}

# Install what is missing of them. Does nothing, and needs neither root nor a network, when nothing is missing.
goalloc_install_packages() {
    local package status missing=() as_root=()

    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "packages: not a Debian system; going on with what is installed. In Debian's names, needed are:" >&2
        echo "    ${goalloc_packages[*]}" >&2
        return 0
    fi
    for package in "${goalloc_packages[@]}"; do
        status=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null) || status=
        grep -qx installed <<<"$status" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    echo "packages: installing ${missing[*]}" >&2
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null; then
            echo "packages: missing: ${missing[*]}; installing them takes root, and there is no sudo" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2; then
        echo "packages: missing: ${missing[*]}; apt-get update failed" >&2
        return 1
    fi
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" >&2; then
        echo "packages: could not install: ${missing[*]}" >&2
        return 1
    fi
}
