//! What this crate takes from the C library, declared by hand: robust mutexes, handlers of forks, poll().
//!
//! Numbers and sizes are glibc's on Linux; the test `posix` has the C compiler confirm them.
use std::os::raw::{c_int, c_short, c_ulong};

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
compile_error!("goalloc is for 64-bit Linux with glibc");

/// Bytes of a pthread_mutex_t.
#[cfg(target_arch = "aarch64")]
pub const MUTEX_SIZE: usize = 48;
/// Bytes of a pthread_mutex_t.
#[cfg(not(target_arch = "aarch64"))]
pub const MUTEX_SIZE: usize = 40;
/// Bytes of a pthread_mutexattr_t.
#[cfg(target_arch = "aarch64")]
pub const MUTEXATTR_SIZE: usize = 8;
/// Bytes of a pthread_mutexattr_t.
#[cfg(not(target_arch = "aarch64"))]
pub const MUTEXATTR_SIZE: usize = 4;

/// glibc's mutex: only its size is known here.
#[repr(C, align(8))]
pub struct RawMutex(pub [u8; MUTEX_SIZE]);

/// glibc's attributes of a mutex.
#[repr(C, align(4))]
pub struct RawMutexAttr(pub [u8; MUTEXATTR_SIZE]);

pub const PTHREAD_MUTEX_ERRORCHECK: c_int = 2;
pub const PTHREAD_PROCESS_SHARED: c_int = 1;
pub const PTHREAD_MUTEX_ROBUST: c_int = 1;
pub const CLOCK_MONOTONIC: c_int = 1;
pub const POLLIN: c_short = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timespec {
    pub tv_sec: i64,
    pub tv_nsec: i64,
}

#[repr(C)]
pub struct PollFd {
    pub fd: c_int,
    pub events: c_short,
    pub revents: c_short,
}

extern "C" {
    pub fn pthread_mutexattr_init(attr: *mut RawMutexAttr) -> c_int;
    pub fn pthread_mutexattr_settype(attr: *mut RawMutexAttr, kind: c_int) -> c_int;
    pub fn pthread_mutexattr_setpshared(attr: *mut RawMutexAttr, pshared: c_int) -> c_int;
    pub fn pthread_mutexattr_setrobust(attr: *mut RawMutexAttr, robust: c_int) -> c_int;
    pub fn pthread_mutexattr_destroy(attr: *mut RawMutexAttr) -> c_int;
    pub fn pthread_mutex_init(mutex: *mut RawMutex, attr: *const RawMutexAttr) -> c_int;
    pub fn pthread_mutex_trylock(mutex: *mut RawMutex) -> c_int;
    pub fn pthread_mutex_clocklock(mutex: *mut RawMutex, clock: c_int, until: *const Timespec) -> c_int;
    pub fn pthread_mutex_unlock(mutex: *mut RawMutex) -> c_int;
    pub fn pthread_mutex_consistent(mutex: *mut RawMutex) -> c_int;

    pub fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
    pub fn clock_gettime(clock: c_int, now: *mut Timespec) -> c_int;
    pub fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
}
