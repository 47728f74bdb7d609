//! Slots: pointers in the heap that own what they lead to, for lists under a mutex from which things are removed.
//!
//! The two changes of a slot are goalloc_link() and goalloc_unlink_free(), which are done or not done whenever the
//! process dies: an object is in the list and the heap's, or it is neither; it is out of the list and free, or still
//! there. What a dead process had begun is finished by goalloc_settle(), which [`Mutex`](crate::Mutex) calls before it
//! lets anybody look at what a dead owner has left. That is why a list of slots needs no repair.
//!
//! Who changes a slot has `&mut` to it, so nobody else looks: in the heap only a mutex gives that, or an object that is
//! owned.
use std::fmt;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::raw::c_void;
use std::ptr;

use goalloc_sys as sys;

use crate::error::{check, Result};
use crate::owned::Owned;
use crate::shareable::{Shareable, Zeroable};
use crate::shared::is_in_heap;

/// A pointer in the heap that owns the object that it leads to, if any.
///
/// What is to be removed has a slot itself, for the next one:
///
/// ```
/// use goalloc::{Mutex, Session, Slot};
///
/// goalloc::shareable! {
///     struct Job {
///         next: Slot<Job>,
///         number: u64,
///     }
/// }
/// /// In the list whatever happens, or not at all.
/// fn add(session: &Session, jobs: &Mutex<Slot<Job>>, number: u64) -> goalloc::Result<()> {
///     let job = session.alloc(Job { next: Slot::empty(), number })?; // not under the lock: it may wait for the daemon
///     jobs.lock(|first| first.insert(job, |job| &mut job.next))?
/// }
/// ```
///
/// A slot does not free what it leads to when it is dropped: an object that is freed with a slot in it loses what that
/// leads to. A [`Mutex`](crate::Mutex) within an object that a slot owns is not to be held when the object is removed
/// by others, which the lock of the list sees to.
#[repr(transparent)]
pub struct Slot<T: Shareable> {
    p: *mut T,
    owns: PhantomData<T>,
}

// SAFETY: it owns a T, as a Box does.
unsafe impl<T: Shareable> Send for Slot<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Slot<T> {}
// SAFETY: a pointer into the heap, stored at once; see above for who dies while it changes.
unsafe impl<T: Shareable> Shareable for Slot<T> {
    const HAS_POINTERS: bool = true;
}
// SAFETY: a null pointer is an empty slot.
unsafe impl<T: Shareable> Zeroable for Slot<T> {}

impl<T: Shareable> Slot<T> {
    /// One that leads nowhere.
    pub const fn empty() -> Slot<T> {
        Slot { p: ptr::null_mut(), owns: PhantomData }
    }

    /// True if it leads nowhere.
    pub fn is_empty(&self) -> bool {
        self.p.is_null()
    }

    fn assert_in_heap(&self) {
        // In private memory it may outlive the session, and what it leads to.
        assert!(self.p.is_null() || is_in_heap(self), "goalloc: a slot that was moved out of the heap is not followed");
    }

    /// What it leads to. (Panics if that is something, and the slot was moved out of the heap.)
    pub fn get(&self) -> Option<&T> {
        self.assert_in_heap();
        // SAFETY: it owns a live T or is null, and is in the heap, which is mapped as long as it is borrowed.
        unsafe { self.p.as_ref() }
    }

    /// As [`Slot::get()`].
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.assert_in_heap();
        // SAFETY: as above, and this is borrowed exclusively, as the T is by it.
        unsafe { self.p.as_mut() }
    }

    /// Puts an object before what is there: the slot leads to it, and the slot in it that `next` names to what the slot
    /// led to. If this process dies meanwhile, the object is there, to stay, or as it was before the call. No round
    /// trip if this session has allocated it. After an error the list is as it was, and the object is freed. (Panics if
    /// `next` names a slot that is not in the object, or leads somewhere already.)
    pub fn insert(&mut self, mut object: Owned<'_, T>, next: impl FnOnce(&mut T) -> &mut Slot<T>) -> Result<()> {
        let rest = self.p;
        let first: *mut T = &mut *object;
        let inner = slot_within(&mut *object, next);

        // SAFETY: the slot is in the object, which nobody else knows of; self is borrowed exclusively. The library
        // looks whether both are in the heap.
        unsafe {
            assert!((*inner).p.is_null(), "goalloc: the next of what is inserted leads somewhere already");
            (*inner).p = rest;
            let slot = ptr::addr_of_mut!(self.p).cast::<*mut c_void>();
            if let Err(error) = check(sys::goalloc_link(slot, first.cast())) {
                (*inner).p = ptr::null_mut();
                return Err(error);
            }
        }
        let _ = object.into_raw(); // it is the slot's
        Ok(())
    }

    /// Takes the object out that the slot leads to, and frees it; the slot leads to what the slot in it did that `next`
    /// names. All of it once, whenever this process dies. The object's destructor is not run. False: it leads nowhere.
    /// No round trip. (Panics as [`Slot::get()`], or if `next` names a slot that is not in the object.)
    pub fn remove(&mut self, next: impl FnOnce(&mut T) -> &mut Slot<T>) -> Result<bool> {
        let rest = match self.get_mut() {
            None => return Ok(false),
            // SAFETY: the slot is in the object.
            Some(object) => unsafe { (*slot_within(object, next)).p },
        };
        let slot = ptr::addr_of_mut!(self.p).cast::<*mut c_void>();
        // SAFETY: self is borrowed exclusively, and the next object is its own from now on.
        check(unsafe { sys::goalloc_unlink_free(slot, rest.cast()) })?;
        Ok(true)
    }
}

/// The slot of the object that is chosen. One that is somewhere else would own what the object's does, too.
fn slot_within<T: Shareable>(object: &mut T, choose: impl FnOnce(&mut T) -> &mut Slot<T>) -> *mut Slot<T> {
    let begin = object as *mut T as usize;
    let slot: *mut Slot<T> = choose(object);
    let at = slot as usize;

    assert!(
        begin <= at && at + size_of::<Slot<T>>() <= begin + size_of::<T>(),
        "goalloc: that slot is not in the object"
    );
    slot
}

/// Whether it leads somewhere; not to what, which may be a long list.
impl<T: Shareable> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Slot(empty)" } else { "Slot(..)" })
    }
}

impl<T: Shareable> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot::empty()
    }
}
