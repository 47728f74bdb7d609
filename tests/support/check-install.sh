#!/bin/bash
# check-install.sh BUILD_DIR: install a finished build into a temporary prefix and use it as a stranger would: all files are there,
# programs in C and C++ compile and link by pkg-config alone, and the libraries bring nothing along that they should not.
set -u -o pipefail

if (($# != 1)) || [[ ! -f $1/CMakeCache.txt ]]; then
    echo "usage: check-install.sh BUILD_DIR (a configured and compiled build)" >&2
    exit 2
fi
build=$(cd "$1" && pwd) || exit 1
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
prefix=$tmp/prefix
errors=0

# NAME COMMAND...: run a check; its output is shown only if it fails.
check() {
    local name=$1
    shift
    if "$@" >"$tmp/output" 2>&1; then
        echo "ok: $name"
    else
        echo "FAILED: $name"
        sed 's/^/    /' "$tmp/output"
        errors=$((errors + 1))
        return 1
    fi
}

# PROGRAM NAME...: the program finds all its libraries, and none of these is among them, directly or not.
links_without() {
    local program=$1 libraries name
    shift
    libraries=$(LD_LIBRARY_PATH=$prefix/lib ldd "$program") || return 1
    echo "$libraries"
    ! grep 'not found' <<<"$libraries" || return 1
    for name; do
        ! grep "$name" <<<"$libraries" || return 1
    done
}

# LIBRARY: every symbol that it exports is of its own name space.
exports_only_goalloc() {
    local symbols others

    symbols=$(nm -D --defined-only "$1" | awk '{ print $NF }') || return 1
    others=$(grep -v -E '^(goalloc_[a-z0-9_]+|GOALLOC_[0-9.]+)(@@?GOALLOC_[0-9.]+)?$' <<<"$symbols")
    echo "exported, but not goalloc_*:"
    echo "$others"
    [[ -z $others ]] && grep -q -E '^goalloc_malloc(@|$)' <<<"$symbols"
}

debug_variant_exports_the_same() {
    diff <(nm -D --defined-only "$prefix/lib/libgoalloc.so" | awk '{ print $NF }') \
        <(nm -D --defined-only "$prefix/lib/goalloc/debug/libgoalloc.so.1" | awk '{ print $NF }')
}

# Programs find the variant by its directory.
debug_variant_is_found() {
    local found

    found=$(LD_LIBRARY_PATH=$prefix/lib/goalloc/debug ldd "$tmp/c") && grep -F "$prefix/lib/goalloc/debug/" <<<"$found"
}

# A second installation does not take an administrator's file.
# Without being told where: it is there because of the prefix of the installation, not of the build.
reads_configuration() {
    local file=$prefix/etc/goallocd/goallocd.conf.d/test.conf

    mkdir "${file%/*}" && printf '[log]\nlog-level = debug\n' >"$file" || return 1
    "$prefix/bin/goallocd" --print-config | grep -F -A1 "from: $file" && rm -r "${file%/*}" &&
        grep -F "Files in $prefix/etc/goallocd/goallocd.conf.d" "$prefix/etc/goallocd/goallocd.conf"
}
keeps_configuration() {
    echo '# mine' >"$prefix/etc/goallocd/goallocd.conf"
    cmake --install "$build" --prefix "$prefix" && grep -x '# mine' "$prefix/etc/goallocd/goallocd.conf"
}

# Units name programs by their full paths below the prefix that was given, with nothing of the templates left.
units_are_rendered() {
    local unit

    for unit in "$prefix"/lib/systemd/system/*; do
        if grep -n -E '@[A-Z_]+@' "$unit"; then
            return 1
        fi
    done
    grep "^ExecStart=$prefix/bin/goallocd " "$prefix/lib/systemd/system/goallocd.service" &&
        grep "^ExecStop=.* $prefix/bin/goallocctl " "$prefix/lib/systemd/system/goallocd.service" &&
        grep "^ExecStart=$prefix/bin/goallocd-exporter " "$prefix/lib/systemd/system/goallocd-exporter.service" &&
        grep "^ExecStart=$prefix/bin/goallocd-collector " "$prefix/lib/systemd/system/goallocd-collector.service"
}

# A program must be told where the library is, since the dynamic linker does not look below this prefix; an
# installation that is staged for a package has nothing to say about that.
linker_is_told() {
    grep -F "does not search $prefix/lib: link programs with -Wl,-rpath,$prefix/lib" <<<"$said" || return 1
    said=$(DESTDIR=$tmp/stage cmake --install "$build" --prefix /usr) || return 1
    ! grep 'dynamic linker' <<<"$said" &&
        grep '^ExecStart=/usr/bin/goallocd ' "$tmp/stage/usr/lib/systemd/system/goallocd.service"
}

install_build() {
    said=$(cmake --install "$build" --prefix "$prefix" 2>&1)
    local status=$?

    echo "$said"
    return "$status"
}

if ! check "cmake --install" install_build; then
    exit 1
fi
for file in bin/goallocd bin/goallocctl bin/goalloc-replay lib/libgoalloc.so lib/libgoalloc.a lib/goalloc/debug/libgoalloc.so.1 include/goalloc.h include/goalloc.hpp include/goalloc/allocator.hpp lib/pkgconfig/goalloc.pc \
    lib/systemd/system/goallocd{,@}.{service,socket} lib/sysusers.d/goallocd.conf lib/tmpfiles.d/goallocd.conf \
    etc/goallocd/goallocd.conf share/goallocd/goallocctl.schema.json \
    share/bash-completion/completions/goallocctl share/zsh/vendor-completions/_goallocctl \
    bin/goallocd-collector lib/systemd/system/goallocd-collector.service share/man/man8/goallocd-collector.8 \
    lib/systemd/system/goallocd-save.service lib/systemd/system/goallocd-save.timer \
    bin/goallocd-exporter lib/systemd/system/goallocd-exporter.service share/goallocd/alerts.yml \
    share/goallocd/grafana-dashboard.json share/man/man8/goallocd.8 share/man/man3/goalloc_free.3 \
    share/goalloc/rust/goalloc/src/lib.rs share/goalloc/rust/goalloc-sys/build.rs \
    share/doc/goallocd/OPERATOR.md share/doc/goallocd/PROBES.md share/doc/goallocd/CPP.md \
    share/doc/goallocd/COLLECTOR.md; do
    check "$file is installed" test -s "$prefix/$file"
done
check "goallocd takes the configuration" "$prefix/bin/goallocd" --config "$prefix/etc/goallocd/goallocd.conf" --check-config
check "and reads it where it is installed" reads_configuration
check "an installation leaves a configuration as it is" keeps_configuration
check "goallocd --version" "$prefix/bin/goallocd" --version
check "goallocd-exporter --version" "$prefix/bin/goallocd-exporter" --version
check "goallocd-collector --version" "$prefix/bin/goallocd-collector" --version
check "goallocctl --version" "$prefix/bin/goallocctl" --version
check "goalloc-replay --version" "$prefix/bin/goalloc-replay" --version
check "the units are complete" units_are_rendered
check "the installation says how programs find the library" linker_is_told
check "libgoalloc.so exports only goalloc_*" exports_only_goalloc "$prefix/lib/libgoalloc.so"
check "the debug variant exports only goalloc_*" exports_only_goalloc "$prefix/lib/goalloc/debug/libgoalloc.so.1"
check "the debug variant exports what libgoalloc.so exports" debug_variant_exports_the_same
check "libgoalloc.so needs no libuv" links_without "$prefix/lib/libgoalloc.so" libuv

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
check "pkg-config names this prefix" test "$(realpath -m "$(pkg-config --variable=includedir goalloc)")" = "$(realpath -m "$prefix/include")"
read -r -a cflags <<<"$(pkg-config --cflags goalloc)"
read -r -a libs <<<"$(pkg-config --libs goalloc)"
read -r -a static_libs <<<"$(pkg-config --static --libs goalloc)"
static_libs=("${static_libs[@]/#-lgoalloc/-l:libgoalloc.a}")
warnings=(-Wall -Wextra -Werror -pedantic)
example=$source_dir/tests/examples/quickstart.c

# As the guide says: C11, and what the program itself asks for. wordindex.c is written for CMake, which defines _GNU_SOURCE.
compile_examples() {
    local file

    for file in "$source_dir"/tests/examples/*.c; do
        [[ $file == */wordindex.c ]] ||
            gcc -std=c11 "${warnings[@]}" -pthread "${cflags[@]}" -o "$tmp/example" "$file" "${libs[@]}" || return 1
    done
}

cat >"$tmp/program.cc" <<'END'
#include <goalloc.h>
int main()
{
    return goalloc_contains(nullptr);
}
END

compile_cpp_example() {
    g++ -std=c++17 "${warnings[@]}" "${cflags[@]}" -o "$tmp/example" "$source_dir/tests/examples/quickstart.cpp" "${libs[@]}"
}

if check "C program" gcc -std=c11 "${warnings[@]}" "${cflags[@]}" -o "$tmp/c" "$example" "${libs[@]}"; then
    check "C program needs no libuv" links_without "$tmp/c" libuv
    check "C program finds the debug variant" debug_variant_is_found
fi
check "the examples" compile_examples
check "the example in C++" compile_cpp_example
if check "C++ program" g++ -std=c++11 "${warnings[@]}" "${cflags[@]}" -o "$tmp/cc" "$tmp/program.cc" "${libs[@]}"; then
    check "C++ program runs" env LD_LIBRARY_PATH="$prefix/lib" "$tmp/cc"
fi
if check "C program with libgoalloc.a" gcc -std=c11 "${warnings[@]}" "${cflags[@]}" -o "$tmp/static" "$example" \
    "${static_libs[@]}"; then
    check "static C program needs neither libgoalloc.so nor libuv" links_without "$tmp/static" libuv 'libgoalloc\.so'
fi

# By find_package(), where the prefix has been moved to. A program of another major finds nothing.
cmake_project() {
    cat >"$tmp/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.20)
project(stranger LANGUAGES C)
find_package(goalloc $1 REQUIRED $2)
add_executable(shared $example)
target_link_libraries(shared goalloc::goalloc)
if(TARGET goalloc::static)
  add_executable(static $example)
  target_link_libraries(static goalloc::static)
endif()
END
    cmake -S "$tmp/project" -B "$tmp/project/$3" -DCMAKE_PREFIX_PATH="$tmp/moved" && cmake --build "$tmp/project/$3"
}

cp -R "$prefix" "$tmp/moved"
mkdir "$tmp/project"
version=$(pkg-config --modversion goalloc)
if check "find_package(goalloc)" cmake_project "${version%%.*}" "" plain; then
    check "its program finds the library where it is" grep -q "$tmp/moved/lib/libgoalloc.so.1" <(ldd "$tmp/project/plain/shared")
fi
if check "find_package(goalloc COMPONENTS static)" cmake_project "$version" "COMPONENTS static" static; then
    check "its static program needs neither libgoalloc.so nor libuv" \
        links_without "$tmp/project/static/static" libuv 'libgoalloc\.so'
fi
other_major_is_not_found() {
    ! cmake_project 2.0 "" other
}
check "find_package(goalloc 2.0) finds none" other_major_is_not_found

((errors == 0))
