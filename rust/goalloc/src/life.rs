//! What this process knows of its attach, for the parts of the crate that have no [`Session`](crate::Session) at hand.
//! All of it is private memory.
//!
//! A forked child has copies of all values that its parent had, and would free and unlock what is the parent's when it
//! drops them. So the process counts in GENERATION how often it has become a child, values remember the number that
//! they were made with, and what is of another one is left alone. (Children of clone(), which calls no handlers of
//! fork(), are not seen.)
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Once;

use crate::posix;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static ATTACHED: AtomicBool = AtomicBool::new(false);
static READ_ONLY: AtomicBool = AtomicBool::new(false);
static HANDLER: Once = Once::new();

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Claims the one attach that a process has; false: it has one. A forked child has its parent's.
pub fn claim() -> bool {
    HANDLER.call_once(|| {
        // SAFETY: the handler is a function of this program, and does nothing but an atomic addition. That it can't be
        // registered, for want of memory, is no state to go on from.
        let r = unsafe { posix::pthread_atfork(None, None, Some(in_child)) };
        assert_eq!(r, 0, "goalloc: no room for a handler of forks");
    });
    !ATTACHED.swap(true, Ordering::AcqRel)
}

pub fn release() {
    READ_ONLY.store(false, Ordering::Relaxed);
    ATTACHED.store(false, Ordering::Release);
}

pub fn set_read_only(read_only: bool) {
    READ_ONLY.store(read_only, Ordering::Relaxed);
}

/// True if the heap is mapped without write access: whoever writes there is killed.
pub fn is_read_only() -> bool {
    READ_ONLY.load(Ordering::Relaxed)
}

/// Differs between a process and those that are forked from it.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}
