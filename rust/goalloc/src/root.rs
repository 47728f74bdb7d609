//! Roots: names by which processes find objects, with types that both sides agree on.
//!
//! A root that is made here has a type tag ([`type_tag()`](crate::type_tag)) and a size, which the daemon keeps; who
//! asks for the name with another type gets [`Error::WrongType`]. Its object is shared, and lives as long as the heap.
//!
//! goalloc_root_get() does not look at tags, so find() asks twice: is there something of that name, and is it of this
//! type. The second is goalloc_root_get_or_create() with an init that refuses to make anything, for the case that the
//! root goes in between.
//!
//! Who makes a root builds the value in private memory and moves it into the object, which the daemon lets others see
//! when that is done. If the process dies before, the object goes, and one of those that wait makes the next.
use std::any::Any;
use std::ffi::CStr;
use std::fmt;
use std::mem::{align_of, size_of};
use std::ops::Deref;
use std::os::raw::{c_int, c_void};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use goalloc_sys as sys;

use crate::error::{self, check, Error, Result};
use crate::session::{c_string, milliseconds, Session};
use crate::shareable::{slice_tag, type_tag, Shareable, Zeroable};
use crate::shared::Shared;

/// A shared object that has a name. [`Shared`] is what it gives.
pub struct Root<'s, T: ?Sized + Shareable> {
    shared: Shared<'s, T>,
    created: bool,
}

impl<'s, T: ?Sized + Shareable> Root<'s, T> {
    /// True if this call has made it, and false if it was there, or another process was faster.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// The object, for as long as the session lasts.
    pub fn shared(&self) -> Shared<'s, T> {
        self.shared
    }
}

impl<T: ?Sized + Shareable> Deref for Root<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.shared.get()
    }
}

impl<T: ?Sized + Shareable + fmt::Debug> fmt::Debug for Root<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// What [`Session::roots()`] says of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RootInfo {
    /// Its name.
    pub name: String,
    /// The object's [`Shared::offset()`].
    pub offset: u64,
    /// Bytes that it was made with; of one that C has set, to the end of its object.
    pub size: usize,
    /// [`type_tag()`](crate::type_tag), or another program's; 0: none.
    pub type_tag: u64,
    /// The session that has set it; 0: that has ended.
    pub session: u64,
}

/// What the library hands on to init(): what makes the object, and the panic that is not to go through C.
struct Making<'a> {
    make: &'a mut dyn FnMut(*mut c_void) -> c_int,
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn init(p: *mut c_void, _size: usize, arg: *mut c_void) -> c_int {
    // SAFETY: what get_or_create() has given to the library, which calls this while that waits.
    let making = unsafe { &mut *arg.cast::<Making>() };
    match catch_unwind(AssertUnwindSafe(|| (making.make)(p))) {
        Ok(r) => r,
        Err(panic) => {
            making.panic = Some(panic);
            -error::ECANCELED
        }
    }
}

/// The library's objects are aligned to 16 bytes at most here.
const ALIGN_MAX: usize = 16;

/// The object, and whether it was made; an Err of the number is what `make` has returned, or the library.
fn get_or_create<T: Shareable>(
    name: &CStr,
    len: usize,
    tag: u64,
    make: &mut dyn FnMut(*mut c_void) -> c_int,
) -> std::result::Result<(NonNull<T>, bool), c_int> {
    let mut making = Making { make, panic: None };
    let mut p = ptr::null_mut();
    let mut created = 0;
    let size = len.checked_mul(size_of::<T>()).ok_or(-error::ENOMEM)?.max(1);

    if align_of::<T>() > ALIGN_MAX {
        return Err(-error::EINVAL);
    }
    let arg: *mut Making = &mut making;
    // SAFETY: init() fits arg, which lives until the call returns; it writes no more than size bytes.
    let r = unsafe {
        sys::goalloc_root_get_or_create(name.as_ptr(), size, tag, Some(init), arg.cast(), &mut p, &mut created)
    };
    if let Some(panic) = making.panic {
        resume_unwind(panic);
    }
    if r < 0 {
        return Err(r);
    }
    let p = NonNull::new(p.cast::<T>()).ok_or(-error::EINVAL)?;
    if p.as_ptr() as usize % align_of::<T>() != 0 {
        return Err(-error::EMEDIUMTYPE); // C has set it to the middle of an object
    }
    Ok((p, created != 0))
}

fn find<T: Shareable>(name: &CStr, len: usize, tag: u64) -> Result<Option<NonNull<T>>> {
    let mut p = ptr::null_mut();
    // SAFETY: the name is a C string, and p there.
    match unsafe { sys::goalloc_root_get(name.as_ptr(), &mut p) } {
        r if r == -error::ENOENT => return Ok(None),
        r => check(r)?,
    };
    match get_or_create(name, len, tag, &mut |_| -error::ECANCELED) {
        Ok((p, _)) => Ok(Some(p)),
        Err(r) if r == -error::ECANCELED || r == -error::EROFS => Ok(None), // it is gone by now
        Err(r) => Err(Error::from_errno(r)),
    }
}

/// A name of a root, and not so long that it is none, nor empty: the library would say so by numbers that it has for
/// other things as well.
fn root_name(name: &str) -> Result<std::ffi::CString> {
    if name.is_empty() || name.len() > sys::GOALLOC_ROOT_NAME_MAX {
        return Err(Error::BadName);
    }
    c_string(name)
}

/// The elements of a root, as the slice that they are.
fn slice_of<T>(p: NonNull<T>, len: usize) -> NonNull<[T]> {
    // SAFETY: p is not null.
    unsafe { NonNull::new_unchecked(ptr::slice_from_raw_parts_mut(p.as_ptr(), len)) }
}

impl Session {
    /// The root of that name, or `None`. Two round trips, or one if it is not there.
    ///
    /// [`Error::WrongType`]: it is there with another type. (A root that a program in C has set without a type fits
    /// each type that is not larger.)
    pub fn find<T: Shareable>(&self, name: &str) -> Result<Option<Root<'_, T>>> {
        let found = find::<T>(&root_name(name)?, 1, type_tag::<T>())?;
        // SAFETY: it has the type's tag and size.
        Ok(found.map(|p| Root { shared: unsafe { Shared::new(p) }, created: false }))
    }

    /// As [`Session::find()`], a slice of just that length.
    pub fn find_slice<T: Shareable>(&self, name: &str, len: usize) -> Result<Option<Root<'_, [T]>>> {
        let found = find::<T>(&root_name(name)?, len, slice_tag::<T>())?;
        // SAFETY: it has the type's tag and size.
        Ok(found.map(|p| Root { shared: unsafe { Shared::new(slice_of(p, len)) }, created: false }))
    }

    /// The root of that name, which `make` makes if it is not there: however many processes and threads ask at once,
    /// they get the same one, made by one of them. If that one dies meanwhile, or `make` panics, the next one makes it.
    /// `make` is called again if the daemon was replaced while it ran, and must not tell others of what it has not
    /// returned yet. One round trip if the root is there, three to make it.
    ///
    /// ```no_run
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// # fn main() -> goalloc::Result<()> {
    /// // SAFETY: all programs that attach to this heap are ours.
    /// let session = unsafe { goalloc::Session::attach()? };
    /// let counter = session.find_or_insert("requests", || AtomicU64::new(0))?;
    /// counter.fetch_add(1, Ordering::Relaxed);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Error::WrongType`]: it is there with another type. [`Error::TimedOut`]: nobody has made it in time.
    /// [`Error::Deadlock`]: within the `make` of the same name. Types that are aligned to more than 16 bytes are
    /// EINVAL.
    pub fn find_or_insert<T: Shareable>(&self, name: &str, mut make: impl FnMut() -> T) -> Result<Root<'_, T>> {
        let mut fill = |p: *mut c_void| {
            // SAFETY: memory for one T, that nobody else knows of.
            unsafe { p.cast::<T>().write(make()) };
            0
        };
        let got = get_or_create::<T>(&root_name(name)?, 1, type_tag::<T>(), &mut fill);
        let (p, created) = got.map_err(Error::from_errno)?;
        // SAFETY: it has the type's tag and size, and is initialised.
        Ok(Root { shared: unsafe { Shared::new(p) }, created })
    }

    /// As [`Session::find_or_insert()`], a slice of `len` values; `make` gets each one's index.
    pub fn find_or_insert_slice<T: Shareable>(
        &self,
        name: &str,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Root<'_, [T]>> {
        let mut fill = |p: *mut c_void| {
            for index in 0..len {
                // SAFETY: memory for len of them, that nobody else knows of.
                unsafe { p.cast::<T>().add(index).write(make(index)) };
            }
            0
        };
        let got = get_or_create::<T>(&root_name(name)?, len, slice_tag::<T>(), &mut fill);
        let (p, created) = got.map_err(Error::from_errno)?;
        // SAFETY: as above.
        Ok(Root { shared: unsafe { Shared::new(slice_of(p, len)) }, created })
    }

    /// As [`Session::find_or_insert()`], of all bytes zero, without a copy of it on the stack: for large tables.
    pub fn find_or_insert_zeroed<T: Zeroable>(&self, name: &str) -> Result<Root<'_, T>> {
        let got = get_or_create::<T>(&root_name(name)?, 1, type_tag::<T>(), &mut |_| 0);
        let (p, created) = got.map_err(Error::from_errno)?;
        // SAFETY: the library gives zeroed memory, which is a T.
        Ok(Root { shared: unsafe { Shared::new(p) }, created })
    }

    /// Waits until there is a root of that name; [`Error::TimedOut`] if there is none in time.
    pub fn wait_for<T: Shareable>(&self, name: &str, timeout: Duration) -> Result<Root<'_, T>> {
        let c_name = root_name(name)?;
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            let mut p = ptr::null_mut();
            // SAFETY: the name is a C string, and p there.
            check(unsafe { sys::goalloc_root_wait(c_name.as_ptr(), milliseconds(left), &mut p) })?;
            if let Some(root) = self.find(name)? {
                return Ok(root);
            }
        }
    }

    /// Takes the name away, and leaves the object to those who have it: it is not freed. False: there was none.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let name = root_name(name)?;
        // SAFETY: the name is a C string.
        match unsafe { sys::goalloc_root_set(name.as_ptr(), ptr::null_mut()) } {
            r if r == -error::ENOENT => Ok(false),
            r => check(r).map(|_| true),
        }
    }

    /// The roots whose names begin with that; all for "". A round trip for each 16.
    pub fn roots(&self, prefix: &str) -> Result<Vec<RootInfo>> {
        unsafe extern "C" fn each(info: *const sys::goalloc_root_info, arg: *mut c_void) -> c_int {
            // SAFETY: both are valid during this call, and arg is the vector below.
            let (info, all) = unsafe { (&*info, &mut *arg.cast::<Vec<RootInfo>>()) };
            all.push(RootInfo {
                name: error::text(info.name),
                // SAFETY: any address is allowed.
                offset: unsafe { sys::goalloc_offset(info.p) },
                size: info.size,
                type_tag: info.type_tag,
                session: info.session,
            });
            0
        }
        let prefix = c_string(prefix)?;
        let mut all = Vec::<RootInfo>::new();
        let arg: *mut Vec<RootInfo> = &mut all;
        // SAFETY: the name is a C string, and the vector lives until the call returns.
        check(unsafe { sys::goalloc_root_list(prefix.as_ptr(), Some(each), arg.cast()) })?;
        Ok(all)
    }
}
