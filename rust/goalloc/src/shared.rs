//! Shared objects: those that all processes may read at any time, and pointers to them that lie in the heap themselves.
//!
//! A shared object is never freed by safe code, so a reference to it is good as long as the session lasts, and a
//! [`Link`] that has been followed leads to something that lives. What is to be freed while others may look is for
//! [`Slot`](crate::Slot), under a mutex, or for `unsafe` ([`Shared::into_owned()`]).
//!
//! A Link is one word, written by atomic stores: a process that dies leaves it as it was before or as it is after. An
//! object is published before it is linked, so what a link names stays when the session of its maker ends.
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::raw::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use goalloc_sys as sys;

use crate::owned::Owned;
use crate::session::Session;
use crate::shareable::{Shareable, Zeroable};

/// A reference to an object that all processes may have, at the same address. It lasts as long as the session:
///
/// ```compile_fail,E0597
/// # fn f() -> goalloc::Result<()> {
/// let kept;
/// {
///     // SAFETY: all programs that attach to this heap are ours.
///     let session = unsafe { goalloc::Session::attach()? };
///     kept = session.alloc(1u64)?.share()?;
/// }
/// assert_eq!(*kept, 1); // the heap is not there any more
/// # Ok(())
/// # }
/// ```
///
/// Nobody has it exclusively, so plain fields stay as they are:
///
/// ```compile_fail,E0594
/// # fn f(session: &goalloc::Session) -> goalloc::Result<()> {
/// let mut number = session.alloc(1u64)?.share()?;
/// *number = 2;
/// # Ok(())
/// # }
/// ```
pub struct Shared<'s, T: ?Sized + Shareable> {
    p: NonNull<T>,
    session: PhantomData<&'s T>,
}

impl<T: ?Sized + Shareable> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized + Shareable> Copy for Shared<'_, T> {}

// SAFETY: it is a shared reference to what is Sync.
unsafe impl<T: ?Sized + Shareable> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Shareable> Sync for Shared<'_, T> {}

/// True if p points into the heap that this process is attached to.
pub(crate) fn is_in_heap<T>(p: *const T) -> bool {
    // SAFETY: any address is allowed.
    unsafe { sys::goalloc_contains(p.cast()) != 0 }
}

impl<'s, T: ?Sized + Shareable> Shared<'s, T> {
    /// The object lives as long as 's, is everybody's, and nobody has it exclusively.
    pub(crate) unsafe fn new(p: NonNull<T>) -> Shared<'s, T> {
        Shared { p, session: PhantomData }
    }

    /// The reference itself, for as long as the session lasts.
    pub fn get(self) -> &'s T {
        // SAFETY: see new().
        unsafe { self.p.as_ref() }
    }

    /// The object's address, which is the same in all processes.
    pub fn as_ptr(self) -> *const T {
        self.p.as_ptr()
    }

    /// A number for the object that other processes make a reference of again: [`Session::at()`]. It can be sent to
    /// them, or written to a file.
    pub fn offset(self) -> u64 {
        // SAFETY: any address is allowed.
        unsafe { sys::goalloc_offset(self.p.as_ptr() as *const c_void) }
    }

    /// Takes the object back, to free it or to change it.
    ///
    /// # Safety
    ///
    /// No process uses it any more or will find it: no root, link or offset of it is left, and nobody has a reference.
    pub unsafe fn into_owned(self) -> Owned<'s, T> {
        // SAFETY: the caller's promise.
        unsafe { Owned::new(self.p) }
    }
}

impl Session {
    /// The shared object that [`Shared::offset()`] has named; `None` if no place in the heap has that number.
    ///
    /// # Safety
    ///
    /// The number was made of a shared T of this heap that has not been freed.
    pub unsafe fn at<T: Shareable>(&self, offset: u64) -> Option<Shared<'_, T>> {
        // SAFETY: any number is allowed; what is there is the caller's promise.
        unsafe { NonNull::new(sys::goalloc_pointer(offset).cast()).map(|p| Shared::new(p)) }
    }
}

impl<T: ?Sized + Shareable> Deref for Shared<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.get()
    }
}

impl<T: ?Sized + Shareable + fmt::Debug> fmt::Debug for Shared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A pointer in the heap to a shared object, or to none: one atomic word.
///
/// ```
/// goalloc::shareable! {
///     struct Node {
///         next: goalloc::Link<Node>,
///         value: u64,
///     }
/// }
/// fn push(session: &goalloc::Session, list: &goalloc::Link<Node>, value: u64) -> goalloc::Result<()> {
///     let node = session.alloc(Node { next: goalloc::Link::empty(), value })?.share()?;
///     let mut first = list.load();
///     loop {
///         node.next.store(first);
///         match list.compare_exchange(first, Some(node)) {
///             Ok(()) => return Ok(()),
///             Err(now) => first = now,
///         }
///     }
/// }
/// ```
#[repr(transparent)]
pub struct Link<T: Shareable> {
    p: AtomicPtr<T>,
}

// SAFETY: an atomic word that names an object which lives as long as the heap.
unsafe impl<T: Shareable> Shareable for Link<T> {
    const HAS_POINTERS: bool = true;
}
// SAFETY: a null pointer is an empty link.
unsafe impl<T: Shareable> Zeroable for Link<T> {}

fn raw<T: Shareable>(shared: Option<Shared<'_, T>>) -> *mut T {
    shared.map_or(ptr::null_mut(), |one| one.p.as_ptr())
}

impl<T: Shareable> Link<T> {
    /// One that leads nowhere.
    pub const fn empty() -> Link<T> {
        Link { p: AtomicPtr::new(ptr::null_mut()) }
    }

    fn seen<'a>(&'a self, p: *mut T) -> Option<Shared<'a, T>> {
        let p = NonNull::new(p)?;
        // A link in private memory may outlive the session, and what it leads to.
        assert!(is_in_heap(self), "goalloc: a link that was moved out of the heap is not followed");
        // SAFETY: what is stored in links is shared, and the session that this one's memory borrows from lasts for 'a.
        Some(unsafe { Shared::new(p) })
    }

    /// What it leads to. (Panics if it leads somewhere and is not in the heap any more, but was moved out of there.)
    pub fn load(&self) -> Option<Shared<'_, T>> {
        self.seen(self.p.load(Ordering::Acquire))
    }

    /// Has it lead to that object.
    pub fn store(&self, to: Option<Shared<'_, T>>) {
        self.p.store(raw(to), Ordering::Release);
    }

    /// Has it lead to `to` if it leads to `from`; else what it leads to is the error.
    pub fn compare_exchange<'a>(
        &'a self,
        from: Option<Shared<'_, T>>,
        to: Option<Shared<'_, T>>,
    ) -> Result<(), Option<Shared<'a, T>>> {
        match self.p.compare_exchange(raw(from), raw(to), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(self.seen(now)),
        }
    }
}

/// Whether it leads somewhere; not to what, since links may lead in circles.
impl<T: Shareable> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.p.load(Ordering::Relaxed).is_null() { "Link(empty)" } else { "Link(..)" })
    }
}

impl<T: Shareable> Default for Link<T> {
    fn default() -> Link<T> {
        Link::empty()
    }
}
