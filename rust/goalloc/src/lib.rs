//! One heap for several processes: a safe layer over libgoalloc.
//!
//! A process attaches to the daemon goallocd, and allocates objects that every other attached process sees **at the
//! same address**. They outlive the process, and the daemon as well.
//!
//! ```no_run
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! fn main() -> goalloc::Result<()> {
//!     // SAFETY: all programs that attach to this heap are ours.
//!     let session = unsafe { goalloc::Session::builder().label("counter").attach()? };
//!     let visits = session.find_or_insert("visits", || AtomicU64::new(0))?; // one object, whoever is first
//!     println!("visit {}", visits.fetch_add(1, Ordering::Relaxed) + 1);
//!     Ok(())
//! }
//! ```
//!
//! | | whose it is | freed |
//! |---|---|---|
//! | [`Owned<T>`](Owned) | this process's alone, as a `Box` | when it is dropped |
//! | [`Shared<T>`](Shared), [`Root<T>`](Root), [`Link<T>`](Link) | everybody's, read by `&T` | by `unsafe` alone |
//! | [`Slot<T>`](Slot), under a [`Mutex`] | the data structure's | when it is removed |
//!
//! What can lie in the heap is [`Shareable`]: numbers, atomics, arrays, and structures of these by [`shareable!`].
//!
//! # Whom to trust
//!
//! All processes that may attach can write all objects: sharing a heap is sharing trust, as between threads. That is
//! why [`Builder::attach()`] is `unsafe`, and says what the caller answers for. The rest is safe: as long as the others
//! keep to the rules, safe code can't free what others use, follow a pointer to what is gone, touch the heap when it is
//! unmapped, or see what a dead process has left half done.
//!
//! | what happens | what this crate does |
//! |---|---|
//! | a process is killed, anywhere | the heap is whole; a [`Mutex`] that it held has its data repaired first |
//! | the daemon is killed, and another one comes | nothing; calls that need it wait, [`Error::TimedOut`] at last |
//! | the heap is dropped | [`Error::Stale`]; what is mapped can be read until the session is dropped |
//! | a closure panics under a mutex | the next one that locks it repairs |
//! | a destructor panics | the memory is freed |
//! | a program forks | the child's copies of what is owned do nothing when they are dropped |
//! | a session is forgotten | the heap stays mapped: what borrows from it is good |
//! | a root has another type | [`Error::WrongType`] |
#![warn(missing_docs, unsafe_op_in_unsafe_fn)]

mod error;
mod events;
mod life;
mod mutex;
mod owned;
#[allow(missing_docs)] // the C library's
#[doc(hidden)]
pub mod posix;
mod root;
mod session;
mod shareable;
mod shared;
mod slot;

pub use error::{Error, Result};
pub use events::{Event, Events};
pub use goalloc_sys as sys;
pub use mutex::{Mutex, Repair};
pub use owned::Owned;
pub use root::{Root, RootInfo};
pub use session::{version, Builder, Session, Stats};
pub use shareable::{type_tag, Shareable, Zeroable};
pub use shared::{Link, Shared};
pub use slot::Slot;
