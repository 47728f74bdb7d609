//! A mutex between processes that survives its holder: pthread's, process-shared and robust.
//!
//! # Data
//!
//! A [`Mutex`] lies in the heap: glibc's mutex, the word `dirty`, and what it guards. The C library and the kernel
//! write the first. `dirty` is written by who has the lock: 1 says that somebody has left what it guards half changed.
//!
//! # Order
//!
//! 1. The lock. EOWNERDEAD: the last holder has died with it; `dirty` becomes 1, *then* the mutex is marked consistent.
//! 2. If `dirty` is 1: goalloc_settle(), so that links that the dead was at are done; `repair()`; `dirty` becomes 0.
//! 3. What the caller wants to do. If that panics, `dirty` becomes 1.
//! 4. The unlock.
//!
//! A death in 1, before the mutex is consistent, gives the next one EOWNERDEAD again; after it as well, since the dead
//! had the lock. If settling fails, because the daemon is away, `dirty` stays 1 when the lock is given back: the
//! C library says EOWNERDEAD only once, and this word goes on saying it.
//!
//! # Why it never sleeps for long
//!
//! An unlock wakes one waiter. If that one is killed before it runs, and a third thread has taken the lock by its fast
//! path meanwhile, the word does not say any more that others wait: they sleep on, while others lock and unlock, and
//! when nobody does any more. The kernel wakes another one only if nobody has the lock just then. (glibc 2.36 and Linux
//! 6.18; of 45 runs of tests/processes.rs two stood still like that.) So a waiter sleeps WAKE_MS at most, and then
//! tries again.
//!
//! # Why a closure
//!
//! A guard can be forgotten, and then a locked mutex be moved, or unmapped with its session; the C library and the
//! kernel find a thread's mutexes by a list through them, and would write there. A closure ends, if only with its
//! thread. An unlocked mutex of glibc holds nothing of its address, so it may be made in private memory and moved.
//!
//! A child that is forked inside the closure does not unlock: to the C library, whose errors are checked (ERRORCHECK),
//! it is not the owner. The same finds a thread that locks twice.
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use goalloc_sys as sys;

use crate::error::{self, check, Error, Result};
use crate::life;
use crate::posix::{self, RawMutex, RawMutexAttr, Timespec};
use crate::shareable::Shareable;
use crate::shared::is_in_heap;
use crate::slot::Slot;

/// What is done to data whose mutex a process held when it died, or a closure that panicked.
///
/// When it is called, any stores of the dead one's have happened and any others have not: the compiler orders them as
/// it likes, but for atomic ones and around `std::sync::atomic::compiler_fence()`. It is called by who has the lock
/// next, before anybody looks; if that one dies as well, it is called again.
///
/// The guide of libgoalloc (`GUIDE.md`) has four ways to be right then, and how to try it.
pub trait Repair: Shareable {
    /// Makes the data whole.
    fn repair(&mut self);
}

macro_rules! whole {
    ($($type:ty),* $(,)?) => { $(
        impl Repair for $type {
            /// One word is stored at once, so it is as it was or as it is to be.
            fn repair(&mut self) {}
        }
    )* };
}

whole!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, f32, f64, bool, char, ());

impl<T: Shareable> Repair for Slot<T> {
    /// Its changes are done or not done; see [`Slot`].
    fn repair(&mut self) {}
}

/// Data in the heap that one thread of all processes has at a time.
///
/// ```
/// use goalloc::{Mutex, Repair};
///
/// goalloc::shareable! {
///     struct Tally {
///         parts: [u64; 4],
///         total: u64,
///     }
/// }
/// impl Repair for Tally {
///     fn repair(&mut self) {
///         self.total = self.parts.iter().sum(); // what follows from the rest is computed again
///     }
/// }
/// fn count(tally: &Mutex<Tally>, part: usize) -> goalloc::Result<u64> {
///     tally.lock(|tally| {
///         tally.parts[part] += 1;
///         tally.total += 1;
///         tally.total
///     })
/// }
/// ```
///
/// What it guards does not leave the closure:
///
/// ```compile_fail
/// fn keep(mutex: &goalloc::Mutex<u64>) -> &mut u64 {
///     mutex.lock(|value| value).unwrap()
/// }
/// ```
#[repr(C)]
pub struct Mutex<T: Repair> {
    raw: UnsafeCell<RawMutex>,
    dirty: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: an unlocked one can be moved; who has it locked borrows it.
unsafe impl<T: Repair> Send for Mutex<T> {}
// SAFETY: the data is who has the lock's, among all processes.
unsafe impl<T: Repair> Sync for Mutex<T> {}
// SAFETY: the C library's mutex is made for this, and repair() for what it guards.
unsafe impl<T: Repair> Shareable for Mutex<T> {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
}

/// Who has the lock gives it back, also when it panics; then what it guards is dirty.
struct Held<'a, T: Repair> {
    mutex: &'a Mutex<T>,
    is_whole: bool,
}

impl<T: Repair> Drop for Held<'_, T> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.mutex.dirty.store(1, Ordering::SeqCst);
        }
        // SAFETY: this thread has it. (A forked child has not, which is an error and nothing else.)
        unsafe { posix::pthread_mutex_unlock(self.mutex.raw.get()) };
    }
}

impl<T: Repair> Mutex<T> {
    /// An unlocked one. It may be moved, into the heap above all, as long as nobody has it locked.
    pub fn new(value: T) -> Mutex<T> {
        let mut raw = RawMutex([0; posix::MUTEX_SIZE]);
        let mut attr = MaybeUninit::<RawMutexAttr>::uninit();
        let all = [
            // SAFETY: attributes, then a mutex, of this function; the library initialises them.
            unsafe { posix::pthread_mutexattr_init(attr.as_mut_ptr()) },
            // SAFETY: as above, and below.
            unsafe { posix::pthread_mutexattr_settype(attr.as_mut_ptr(), posix::PTHREAD_MUTEX_ERRORCHECK) },
            unsafe { posix::pthread_mutexattr_setpshared(attr.as_mut_ptr(), posix::PTHREAD_PROCESS_SHARED) },
            unsafe { posix::pthread_mutexattr_setrobust(attr.as_mut_ptr(), posix::PTHREAD_MUTEX_ROBUST) },
            unsafe { posix::pthread_mutex_init(&mut raw, attr.as_ptr()) },
            unsafe { posix::pthread_mutexattr_destroy(attr.as_mut_ptr()) },
        ];
        assert_eq!(all, [0; 6], "goalloc: the C library has no robust mutexes");
        Mutex { raw: UnsafeCell::new(raw), dirty: AtomicU32::new(0), data: UnsafeCell::new(value) }
    }

    /// Runs `f` with what it guards, when nobody else has it. It waits as long as somebody who has it lives and does
    /// not give it back: see [`Mutex::lock_for()`]. What may wait for the daemon, as an allocation, does not belong
    /// into `f`.
    ///
    /// [`Error::Deadlock`]: this thread has it. After a death [`Error::TimedOut`]: the daemon is away, which has to
    /// finish what the dead had begun; the next one tries again. If `f` panics, the next one repairs.
    pub fn lock<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.run(|raw| lock_until(raw, None), f)
    }

    /// [`Error::Busy`] if somebody has it.
    pub fn try_lock<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R> {
        // SAFETY: it is initialised.
        self.run(|raw| unsafe { posix::pthread_mutex_trylock(raw) }, f)
    }

    /// [`Error::TimedOut`] if somebody has it for so long, such as one that is stopped.
    pub fn lock_for<R>(&self, timeout: Duration, f: impl FnOnce(&mut T) -> R) -> Result<R> {
        let end = Instant::now().checked_add(timeout); // None: later than anybody waits
        self.run(|raw| lock_until(raw, end), f)
    }

    fn run<R>(&self, take: impl FnOnce(*mut RawMutex) -> c_int, f: impl FnOnce(&mut T) -> R) -> Result<R> {
        if life::is_read_only() && is_in_heap(self) {
            return Err(Error::ReadOnly);
        }
        let r = take(self.raw.get());
        if r != 0 && r != error::EOWNERDEAD {
            return Err(Error::from_errno(r));
        }
        let mut held = Held { mutex: self, is_whole: true };
        if r == error::EOWNERDEAD {
            self.dirty.store(1, Ordering::SeqCst);
            // SAFETY: this thread has it, and was told so.
            check(-unsafe { posix::pthread_mutex_consistent(self.raw.get()) })?;
        }
        // SAFETY: who has the lock has the data, and the closures give no reference away.
        let data = unsafe { &mut *self.data.get() };
        if self.dirty.load(Ordering::SeqCst) != 0 {
            self.settle()?;
            held.is_whole = false;
            data.repair();
            self.dirty.store(0, Ordering::SeqCst);
        }
        held.is_whole = false;
        let ret = f(data);
        held.is_whole = true;
        Ok(ret)
    }

    /// A heap that was dropped has nobody who would change a word of it, and private memory no other process.
    fn settle(&self) -> Result<()> {
        if !is_in_heap(self) {
            return Ok(());
        }
        // SAFETY: no arguments.
        match check(unsafe { sys::goalloc_settle() }) {
            Ok(_) | Err(Error::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What it guards, for who has the mutex exclusively: nobody can have it locked.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

/// Nothing of what it guards, which somebody may have just now.
impl<T: Repair> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex(..)")
    }
}

/// How long a waiter sleeps at most before it looks whether the lock is free.
const WAKE_MS: u64 = 50;

/// The lock, at last: 0, EOWNERDEAD, or an error; ETIMEDOUT when `end` has come.
fn lock_until(raw: *mut RawMutex, end: Option<Instant>) -> c_int {
    // SAFETY: it is initialised.
    let mut r = unsafe { posix::pthread_mutex_trylock(raw) };
    if r != error::EBUSY {
        return r; // without a look at the clock
    }
    loop {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let until = deadline(left.min(Duration::from_millis(WAKE_MS)));
        // SAFETY: it is initialised, and the time is valid.
        r = unsafe { posix::pthread_mutex_clocklock(raw, posix::CLOCK_MONOTONIC, &until) };
        if r != error::ETIMEDOUT || left.is_zero() {
            return r;
        }
    }
}

/// So much later, which is a second at most.
fn deadline(later: Duration) -> Timespec {
    let mut now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is there, and there is such a clock.
    unsafe { posix::clock_gettime(posix::CLOCK_MONOTONIC, &mut now) };
    let nanoseconds = now.tv_nsec + i64::from(later.subsec_nanos());
    Timespec {
        tv_sec: now.tv_sec + later.as_secs() as i64 + nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}
