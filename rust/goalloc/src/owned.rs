//! Owned objects: allocated in the heap, this process's alone, freed when they are dropped.
//!
//! Who allocates: the methods of [`Session`] below. An object begins here in any case; it becomes everybody's by
//! [`Owned::share()`], or a [`Slot`](crate::Slot)'s.
//!
//! If the process dies, an object that is still owned is freed with the session, if that was attached with
//! [`Builder::reclaim()`](crate::Builder::reclaim); else it stays, and nobody knows of it.
use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of, ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::os::raw::c_void;
use std::ptr::{self, NonNull};
use std::slice;

use goalloc_sys as sys;

use crate::error::{check, Error, Result};
use crate::life;
use crate::session::Session;
use crate::shareable::{Shareable, Zeroable};
use crate::shared::Shared;

/// An object in the heap that nobody else knows of, as a `Box` in private memory. Dropping it frees it, by whichever
/// thread; in a forked child an inherited one does nothing when it is dropped.
///
/// It is this process's, so it does not lie in the heap itself; [`Slot`](crate::Slot) does:
///
/// ```compile_fail,E0277
/// goalloc::shareable! {
///     struct List {
///         next: goalloc::Owned<'static, u64>,
///     }
/// }
/// ```
pub struct Owned<'s, T: ?Sized + Shareable> {
    p: NonNull<T>,
    generation: u32,
    session: PhantomData<&'s Session>,
}

// SAFETY: it is the only way to the value, which is Send and Sync; the library's calls are thread-safe.
unsafe impl<T: ?Sized + Shareable> Send for Owned<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Shareable> Sync for Owned<'_, T> {}

/// Memory for `len` values of T, with all bytes zero if that is asked for. Such of up to 16 bytes is aligned to its
/// size or to 8, more to 16 (17 to 24 bytes to 8), which is enough for each T that is not aligned to more than 16.
fn allocate<T: Shareable>(len: usize, zeroed: bool) -> Result<NonNull<T>> {
    let bytes = len.checked_mul(size_of::<T>()).ok_or(Error::OutOfMemory)?;
    // SAFETY: any sizes are allowed; what is aligned is zeroed in its full length, which is at least that.
    let p = unsafe {
        if align_of::<T>() > 16 || (bytes == 0 && align_of::<T>() > 1) {
            let p = sys::goalloc_aligned_alloc(align_of::<T>(), bytes.max(1));
            if zeroed && !p.is_null() {
                ptr::write_bytes(p.cast::<u8>(), 0, bytes);
            }
            p
        } else {
            match (T::HAS_POINTERS, zeroed) {
                (true, true) => sys::goalloc_calloc(1, bytes),
                (true, false) => sys::goalloc_malloc(bytes),
                (false, true) => sys::goalloc_calloc_noscan(1, bytes),
                (false, false) => sys::goalloc_malloc_noscan(bytes),
            }
        }
    };
    let p = NonNull::new(p.cast::<T>()).ok_or_else(Error::last)?;
    debug_assert_eq!(p.as_ptr() as usize % align_of::<T>(), 0);
    Ok(p)
}

/// Memory that is freed if what is to be written there panics, and the values that are there already are dropped.
struct Filling<T> {
    p: NonNull<T>,
    len: usize,
}

impl<T> Drop for Filling<T> {
    fn drop(&mut self) {
        let memory = Memory(self.p.as_ptr().cast());
        // SAFETY: so many values are there, and nobody else has them.
        unsafe { ptr::drop_in_place(ptr::slice_from_raw_parts_mut(self.p.as_ptr(), self.len)) };
        drop(memory);
    }
}

/// Freed at the end, also if a destructor panics.
struct Memory(*mut c_void);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: an object of the heap that its one owner lets go. (What is no object any more, since somebody else
        // has broken the rules, ends the process with a message.)
        unsafe { sys::goalloc_free(self.0) };
    }
}

impl Session {
    /// Allocates a value. A few nanoseconds, but for a round trip now and then.
    pub fn alloc<T: Shareable>(&self, value: T) -> Result<Owned<'_, T>> {
        let p = allocate::<T>(1, false)?;
        // SAFETY: memory for one T, aligned for it, that nobody else knows of.
        unsafe {
            p.as_ptr().write(value);
            Ok(Owned::new(p))
        }
    }

    /// Allocates a value of all bytes zero, without a copy of it on the stack.
    pub fn alloc_zeroed<T: Zeroable>(&self) -> Result<Owned<'_, T>> {
        // SAFETY: zeroed memory is a T.
        allocate::<T>(1, true).map(|p| unsafe { Owned::new(p) })
    }

    /// Allocates `len` values; `make` gets each one's index.
    pub fn alloc_slice_with<T: Shareable>(
        &self,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Owned<'_, [T]>> {
        let mut filling = Filling { p: allocate::<T>(len, false)?, len: 0 };
        while filling.len < len {
            let value = make(filling.len);
            // SAFETY: within memory for `len` of them.
            unsafe { filling.p.as_ptr().add(filling.len).write(value) };
            filling.len += 1;
        }
        let filling = ManuallyDrop::new(filling);
        // SAFETY: all are written.
        Ok(unsafe { Owned::of_slice(filling.p, len) })
    }

    /// Allocates a copy of a slice.
    pub fn alloc_slice<T: Shareable + Copy>(&self, values: &[T]) -> Result<Owned<'_, [T]>> {
        let p = allocate::<T>(values.len(), false)?;
        // SAFETY: new memory for as many; they are Copy.
        unsafe {
            ptr::copy_nonoverlapping(values.as_ptr(), p.as_ptr(), values.len());
            Ok(Owned::of_slice(p, values.len()))
        }
    }

    /// Allocates `len` values of all bytes zero.
    pub fn alloc_slice_zeroed<T: Zeroable>(&self, len: usize) -> Result<Owned<'_, [T]>> {
        // SAFETY: zeroed memory is so many T.
        allocate::<T>(len, true).map(|p| unsafe { Owned::of_slice(p, len) })
    }
}

impl<'s, T: Shareable> Owned<'s, [T]> {
    /// As [`Owned::new()`].
    unsafe fn of_slice(p: NonNull<T>, len: usize) -> Owned<'s, [T]> {
        let slice = ptr::slice_from_raw_parts_mut(p.as_ptr(), len);
        // SAFETY: the caller's promise.
        unsafe { Owned::new(NonNull::new_unchecked(slice)) }
    }

    /// Appends values, moving the slice if need be. On an error all is as it was.
    pub fn extend_from_slice(&mut self, values: &[T]) -> Result<()>
    where
        T: Copy,
    {
        let len = self.len();
        let longer = len.checked_add(values.len()).ok_or(Error::OutOfMemory)?;
        let bytes = longer.checked_mul(size_of::<T>()).ok_or(Error::OutOfMemory)?;
        if align_of::<T>() > 8 || len == 0 || size_of::<T>() == 0 {
            // Only of malloc's alignment it is known that it stays when an object moves.
            let mut all = allocate_uninit::<T>(longer)?;
            all[..len].copy_from_slice(as_uninit(self));
            all[len..].copy_from_slice(as_uninit(values));
            // SAFETY: both parts are written.
            *self = unsafe { Owned::of_slice(all.into_raw_parts(), longer) };
            return Ok(());
        }
        // SAFETY: a live object, this process's alone; the values behind the old ones are written before it counts
        // them.
        unsafe {
            let p = sys::goalloc_realloc(self.p.as_ptr().cast(), bytes).cast::<T>();
            let p = NonNull::new(p).ok_or_else(Error::last)?;
            ptr::copy_nonoverlapping(values.as_ptr(), p.as_ptr().add(len), values.len());
            self.p = NonNull::new_unchecked(ptr::slice_from_raw_parts_mut(p.as_ptr(), longer));
        }
        Ok(())
    }
}

/// Memory for values that are not written yet; freed unless it is taken.
struct Uninit<T> {
    filling: Filling<T>,
    capacity: usize,
}

fn allocate_uninit<T: Shareable>(capacity: usize) -> Result<Uninit<T>> {
    Ok(Uninit { filling: Filling { p: allocate::<T>(capacity, false)?, len: 0 }, capacity })
}

impl<T> Uninit<T> {
    fn into_raw_parts(self) -> NonNull<T> {
        ManuallyDrop::new(self.filling).p
    }
}

impl<T> Deref for Uninit<T> {
    type Target = [MaybeUninit<T>];
    fn deref(&self) -> &[MaybeUninit<T>] {
        // SAFETY: so much memory is there.
        unsafe { slice::from_raw_parts(self.filling.p.as_ptr().cast(), self.capacity) }
    }
}

impl<T> DerefMut for Uninit<T> {
    fn deref_mut(&mut self) -> &mut [MaybeUninit<T>] {
        // SAFETY: as above, and nobody else knows of it.
        unsafe { slice::from_raw_parts_mut(self.filling.p.as_ptr().cast(), self.capacity) }
    }
}

fn as_uninit<T: Copy>(values: &[T]) -> &[MaybeUninit<T>] {
    // SAFETY: the layout is the same, and nobody writes through it.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

impl<'s, T: ?Sized + Shareable> Owned<'s, T> {
    /// The value is there, an object of its own, and the caller's alone.
    pub(crate) unsafe fn new(p: NonNull<T>) -> Owned<'s, T> {
        Owned { p, generation: life::generation(), session: PhantomData }
    }

    /// Takes an object of the heap for one's own, such as one that another process has handed over.
    ///
    /// # Safety
    ///
    /// `p` is the address of a live object with a valid T in it, that this session's process alone uses from now on.
    /// (It is another session's still, by which it ends: [`Owned::adopt()`] changes that.)
    pub unsafe fn from_raw(_session: &'s Session, p: NonNull<T>) -> Owned<'s, T> {
        // SAFETY: the caller's promise.
        unsafe { Owned::new(p) }
    }

    /// The object's address; it is freed by nobody until [`Owned::from_raw()`].
    pub fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).p
    }

    /// Makes the object the heap's: it stays when the session ends, though it is still this process's to free.
    pub fn publish(&self) -> Result<()> {
        // SAFETY: a live object.
        check(unsafe { sys::goalloc_publish(self.p.as_ptr().cast()) }).map(drop)
    }

    /// Makes the object this session's, or its group's, whoever has allocated it. A round trip.
    pub fn adopt(&self) -> Result<()> {
        // SAFETY: a live object.
        check(unsafe { sys::goalloc_adopt(self.p.as_ptr().cast()) }).map(drop)
    }

    /// Has all processes read the object for good: it is published, stays when the session ends, and is not freed any
    /// more (but for [`Shared::into_owned()`], which is unsafe). After an error it is freed.
    pub fn share(self) -> Result<Shared<'s, T>> {
        self.publish()?;
        // SAFETY: a live object, that nobody has exclusively any more.
        Ok(unsafe { Shared::new(self.into_raw()) })
    }

    /// True if this process has made it, and is not a child that was forked since.
    fn is_mine(&self) -> bool {
        self.generation == life::generation()
    }
}

impl<T: Shareable> Owned<'_, T> {
    /// Moves the value out, and frees the object.
    pub fn into_inner(self) -> T {
        let mine = self.is_mine();
        let p = self.into_raw();
        let _memory = mine.then(|| Memory(p.as_ptr().cast()));
        // SAFETY: the value is there, and is not dropped again.
        unsafe { p.as_ptr().read() }
    }
}

impl<T: ?Sized + Shareable> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        if self.is_mine() {
            let memory = Memory(self.p.as_ptr().cast());
            // SAFETY: the value is there, and this is its one owner. If it panics, the memory is freed all the same.
            unsafe { ptr::drop_in_place(self.p.as_ptr()) };
            drop(memory);
        }
    }
}

impl<T: ?Sized + Shareable> Deref for Owned<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: alive as long as this is, which no session outlives that is detached.
        unsafe { self.p.as_ref() }
    }
}

impl<T: ?Sized + Shareable> DerefMut for Owned<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and nobody else knows of it.
        unsafe { self.p.as_mut() }
    }
}

impl<T: ?Sized + Shareable + fmt::Debug> fmt::Debug for Owned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
