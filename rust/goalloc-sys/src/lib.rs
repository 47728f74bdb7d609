//! Bindings of libgoalloc, as `goalloc.h` of the same version declares it: every function, structure and constant,
//! under its name in C. What each of them does, costs and returns, that header says, and `man goalloc`.
//!
//! The crate `goalloc` is what programs use; this one is for what it does not have. The test `abi` compares all that is
//! here with what the C compiler makes of the header.
#![no_std]
#![allow(non_camel_case_types)]

extern crate std;

use std::os::raw::{c_char, c_int, c_void};

/// What the bindings were written for. `goalloc_version()` is what the program runs with.
pub const GOALLOC_VERSION_MAJOR: u32 = 1;
pub const GOALLOC_VERSION_MINOR: u32 = 0;
pub const GOALLOC_VERSION_PATCH: u32 = 0;

/// Objects belong to the session or its group, unless they are published or adopted.
pub const GOALLOC_ATTACH_RECLAIM: u32 = 1;
/// The mapping has no write access.
pub const GOALLOC_ATTACH_READONLY: u32 = 2;
/// Core dumps hold what is in use of the heap.
pub const GOALLOC_ATTACH_DUMP: u32 = 4;
/// The attach waits for a daemon that is just starting.
pub const GOALLOC_ATTACH_WAIT: u32 = 8;
/// This process keeps pointers where no collector can see them.
pub const GOALLOC_ATTACH_OPAQUE: u32 = 16;

/// Free nothing: only count.
pub const GOALLOC_COLLECT_REPORT: u32 = 1;
/// Free as well what lies in spans that sessions hold on lease.
pub const GOALLOC_COLLECT_ALL: u32 = 2;
/// Words that are `goalloc_offset()` values count as pointers.
pub const GOALLOC_COLLECT_OFFSETS: u32 = 4;
/// A pointer right behind an object's end holds the object, too.
pub const GOALLOC_COLLECT_PAST_END: u32 = 8;
/// What the kernel holds and does not show (io_uring, AIO contexts) has no pointers.
pub const GOALLOC_COLLECT_TRUST_KERNEL: u32 = 16;

/// The longest name of a root, in bytes, without the terminating zero.
pub const GOALLOC_ROOT_NAME_MAX: usize = 255;
/// The longest name of a group, in bytes, without the terminating zero.
pub const GOALLOC_GROUP_NAME_MAX: usize = 63;

pub const GOALLOC_EVENT_SESSION_END: u32 = 1;
pub const GOALLOC_EVENT_ROOT_SET: u32 = 2;
pub const GOALLOC_EVENT_ROOT_REMOVED: u32 = 3;
pub const GOALLOC_EVENT_HEAP_GONE: u32 = 4;
pub const GOALLOC_EVENT_MEMORY_SHORT: u32 = 5;
pub const GOALLOC_EVENT_LOST: u32 = 6;
pub const GOALLOC_EVENT_STOPPING: u32 = 7;

pub const GOALLOC_CAUSE_DETACHED: i32 = 1;
pub const GOALLOC_CAUSE_DIED: i32 = 2;

/// Or'ed into a type tag: what is left of an earlier heap is initialised again, once.
pub const GOALLOC_ROOT_REINIT: u64 = 1 << 63;

/// How a process attaches. `struct_size` is set to its size; what is zero takes its default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct goalloc_options {
    pub struct_size: usize,
    pub socket_path: *const c_char,
    pub label: *const c_char,
    pub flags: u32,
    pub limit_bytes: u64,
    pub timeout_ms: c_int,
    pub group: *const c_char,
}

/// What `goalloc_stats()` reports; `goalloc.h` says what each field counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct goalloc_stats_t {
    pub struct_size: usize,
    pub live_objects: u64,
    pub live_bytes: u64,
    pub committed_bytes: u64,
    pub released_bytes: u64,
    pub metadata_bytes: u64,
    pub sessions: u64,
    pub leased_spans: u64,
    pub roots: u64,
    pub session_held_bytes: u64,
    pub session_rpcs: u64,
    pub free_bytes: u64,
    pub arena_bytes: u64,
    pub memory_limit_bytes: u64,
    pub max_memory_bytes: u64,
    pub peak_committed_bytes: u64,
    pub group_live_objects: u64,
    pub group_live_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct goalloc_event {
    pub struct_size: usize,
    pub kind: u32,
    pub session: u64,
    pub pid: i32,
    pub cause: i32,
    pub label: [c_char; 64],
    pub group: [c_char; 64],
    pub root: [c_char; 256],
}

/// How `goalloc_collect()` collects. `struct_size` is set to its size; what is zero takes its default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct goalloc_collect_options {
    pub struct_size: usize,
    pub flags: u32,
    pub max_pause_us: u32,
}

/// What `goalloc_collect()` has found and freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct goalloc_collect_result {
    pub struct_size: usize,
    pub garbage_objects: u64,
    pub garbage_bytes: u64,
    pub freed_objects: u64,
    pub freed_bytes: u64,
    pub pause_us: u32,
    pub blocking_pid: i32,
}

/// What `goalloc_root_list()` says of a root.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct goalloc_root_info {
    pub name: *const c_char,
    pub p: *mut c_void,
    pub size: usize,
    pub type_tag: u64,
    pub session: u64,
}

/// Initialises the `size` bytes at `p`: 0, or a negative errno. It must not unwind.
pub type goalloc_init_fn = Option<unsafe extern "C" fn(p: *mut c_void, size: usize, arg: *mut c_void) -> c_int>;

/// Called with each root by `goalloc_root_list()`. It must not unwind.
pub type goalloc_each_fn = Option<unsafe extern "C" fn(info: *const goalloc_root_info, arg: *mut c_void) -> c_int>;

extern "C" {
    pub fn goalloc_attach(options: *const goalloc_options) -> c_int;
    pub fn goalloc_attach_error() -> *const c_char;
    pub fn goalloc_set_label(label: *const c_char) -> c_int;
    pub fn goalloc_detach() -> c_int;

    pub fn goalloc_heap_id() -> u64;
    pub fn goalloc_is_current() -> c_int;
    pub fn goalloc_event_fd() -> c_int;
    pub fn goalloc_next_event(ret: *mut goalloc_event) -> c_int;

    pub fn goalloc_malloc(size: usize) -> *mut c_void;
    pub fn goalloc_malloc_noscan(size: usize) -> *mut c_void;
    pub fn goalloc_calloc(count: usize, size: usize) -> *mut c_void;
    pub fn goalloc_calloc_noscan(count: usize, size: usize) -> *mut c_void;
    pub fn goalloc_realloc(p: *mut c_void, size: usize) -> *mut c_void;
    pub fn goalloc_aligned_alloc(alignment: usize, size: usize) -> *mut c_void;
    pub fn goalloc_free(p: *mut c_void);
    pub fn goalloc_free_checked(p: *mut c_void) -> c_int;
    pub fn goalloc_usable_size(p: *const c_void) -> usize;
    pub fn goalloc_contains(p: *const c_void) -> c_int;

    pub fn goalloc_publish(p: *mut c_void) -> c_int;
    pub fn goalloc_publish_graph(p: *mut c_void, ret_n: *mut usize) -> c_int;
    pub fn goalloc_adopt(p: *mut c_void) -> c_int;
    pub fn goalloc_link(slot: *mut *mut c_void, p: *mut c_void) -> c_int;
    pub fn goalloc_unlink_free(slot: *mut *mut c_void, next: *mut c_void) -> c_int;
    pub fn goalloc_settle() -> c_int;

    pub fn goalloc_root_set(name: *const c_char, p: *mut c_void) -> c_int;
    pub fn goalloc_root_get(name: *const c_char, ret_p: *mut *mut c_void) -> c_int;
    pub fn goalloc_root_compare_and_set(name: *const c_char, expected: *mut c_void, p: *mut c_void) -> c_int;
    pub fn goalloc_root_wait(name: *const c_char, timeout_ms: c_int, ret_p: *mut *mut c_void) -> c_int;
    pub fn goalloc_root_get_or_create(
        name: *const c_char,
        size: usize,
        type_tag: u64,
        init: goalloc_init_fn,
        arg: *mut c_void,
        ret_p: *mut *mut c_void,
        ret_created: *mut c_int,
    ) -> c_int;
    pub fn goalloc_root_list(prefix: *const c_char, each: goalloc_each_fn, arg: *mut c_void) -> c_int;

    pub fn goalloc_offset(p: *const c_void) -> u64;
    pub fn goalloc_pointer(offset: u64) -> *mut c_void;
    pub fn goalloc_stats(ret_stats: *mut goalloc_stats_t) -> c_int;
    pub fn goalloc_trim() -> c_int;
    pub fn goalloc_collect(options: *const goalloc_collect_options, ret: *mut goalloc_collect_result) -> c_int;
    pub fn goalloc_private_roots(p: *const c_void, bytes: usize) -> c_int;
    pub fn goalloc_private_roots_remove(p: *const c_void) -> c_int;
    pub fn goalloc_strerror(error: c_int) -> *const c_char;
    pub fn goalloc_version() -> *const c_char;
}
