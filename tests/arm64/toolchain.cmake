# For cmake: programs for arm64 that run here under qemu's user emulation. tests/arm64/setup has made CMAKE_SYSROOT, with
# Debian's libraries for arm64, and the objects beside it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_C_FLAGS_INIT -DGOALLOC_TESTS_EMULATED)
set(CMAKE_CXX_FLAGS_INIT -DGOALLOC_TESTS_EMULATED)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${CMAKE_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${CMAKE_SYSROOT}/usr/share/pkgconfig)
set(ENV{PKG_CONFIG_PATH} "")

# The loader and the libraries are the root's: this machine has none for arm64. An old rpath
# holds for the libraries of libraries, too.
string(JOIN " " CMAKE_EXE_LINKER_FLAGS_INIT
  -Wl,--dynamic-linker=${CMAKE_SYSROOT}/lib/ld-linux-aarch64.so.1 -Wl,--disable-new-dtags
  -Wl,-rpath,${CMAKE_SYSROOT}/lib/aarch64-linux-gnu:${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu
  ${CMAKE_SYSROOT}/../qemu_sockets.o ${CMAKE_SYSROOT}/../qemu_memory.o ${CMAKE_SYSROOT}/../qemu_skips.o)
