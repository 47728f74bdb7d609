//! Sessions: a process's time with the heap, from the attach to the drop.
//!
//! Everything that points into the heap borrows from the [`Session`], so the compiler sees to it that nothing does any
//! more when the heap is unmapped. A process has one at a time.
use std::ffi::CString;
use std::os::raw::c_int;
use std::ptr;
use std::time::Duration;

use goalloc_sys as sys;

use crate::error::{self, check, Error, Result};
use crate::life;

/// What [`Session::stats()`] gives, by the names of `goalloc.h`, which says what each of them counts.
pub type Stats = sys::goalloc_stats_t;

/// How a process attaches: defaults, unless something else is said.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    socket: Option<String>,
    label: Option<String>,
    group: Option<String>,
    flags: u32,
    limit_bytes: u64,
    timeout: Option<Duration>,
}

/// A text for the library, which ends at a zero byte.
pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::BadName)
}

/// At least 1, which a duration above zero stands for, and at most what an int holds.
pub(crate) fn milliseconds(duration: Duration) -> c_int {
    let up = duration.as_nanos().saturating_add(999_999) / 1_000_000;
    c_int::try_from(up).unwrap_or(c_int::MAX)
}

impl Builder {
    /// The daemon's socket; else `$GOALLOC_SOCKET`, else that of the system's daemon.
    pub fn socket(mut self, path: impl Into<String>) -> Builder {
        self.socket = Some(path.into());
        self
    }

    /// What `goallocctl` calls this session; else the program's name.
    pub fn label(mut self, label: impl Into<String>) -> Builder {
        self.label = Some(label.into());
        self
    }

    /// Sessions of one group own together what they have not published; with [`Builder::reclaim()`].
    pub fn group(mut self, name: impl Into<String>) -> Builder {
        self.group = Some(name.into());
        self
    }

    /// Objects are freed when their session ends, or their group's last one, however it ends: all but those that were
    /// shared ([`Owned::share()`](crate::Owned::share)), linked or published. So a worker that is killed leaves
    /// nothing.
    pub fn reclaim(mut self) -> Builder {
        self.flags |= sys::GOALLOC_ATTACH_RECLAIM;
        self
    }

    /// Roots can be looked up and read; all that would change the heap is [`Error::ReadOnly`]. There is no write access
    /// to objects: a store to an atomic in the heap ends the process by SIGSEGV.
    pub fn read_only(mut self) -> Builder {
        self.flags |= sys::GOALLOC_ATTACH_READONLY;
        self
    }

    /// Core dumps of this process hold what is in use of the heap, if it ends by SIGABRT, SIGILL or the like. Of
    /// SIGSEGV and SIGBUS Rust's runtime has handlers of its own, which the library leaves alone.
    pub fn dump(mut self) -> Builder {
        self.flags |= sys::GOALLOC_ATTACH_DUMP;
        self
    }

    /// Waits, within the timeout, for a daemon that is just starting.
    pub fn wait(mut self) -> Builder {
        self.flags |= sys::GOALLOC_ATTACH_WAIT;
        self
    }

    /// The most that this session may hold in spans, in bytes.
    pub fn limit(mut self, bytes: u64) -> Builder {
        self.limit_bytes = bytes;
        self
    }

    /// Bound of the attach and of each request to the daemon, in steps of a millisecond; else 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = Some(timeout);
        self
    }

    /// Attaches this process: one connect and one round trip. [`Error::Attach`] says in a sentence what is wrong; its
    /// errno is EALREADY if the process has a session, also in a forked child that has not dropped its parent's.
    ///
    /// # Safety
    ///
    /// The heap is memory that other processes write, so the caller answers for what the compiler can't see:
    ///
    /// - **All processes that attach to this heap keep to the rules**: those in Rust to this crate's, those in other
    ///   languages to what the types of the objects say that they touch. Who may attach is what the permissions of the
    ///   socket say. A process that scribbles over objects makes all others undefined behaviour, as a thread would that
    ///   does so; the daemon alone is safe from it. This includes an administrator's `goallocctl disconnect` and
    ///   `reclaim` of a session whose process lives: they free what that process still uses.
    /// - **Nothing is left of another heap.** If the process was attached before, to a heap that was dropped since, it
    ///   has no values any more that hold pointers into it and were moved out of it, such as a [`Link`](crate::Link).
    /// - **A forked child** leaves alone what its parent's values have exclusively: [`Owned`](crate::Owned) and what a
    ///   [`Mutex`](crate::Mutex) lends to a closure that is running. (To drop them is harmless, and does nothing.)
    ///   Shared references are both's. fork() is unsafe by itself; `std::process::Command` is not meant.
    pub unsafe fn attach(self) -> Result<Session> {
        let socket = self.socket.as_deref().map(c_string).transpose()?;
        let label = self.label.as_deref().map(c_string).transpose()?;
        let group = self.group.as_deref().map(c_string).transpose()?;
        let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |one| one.as_ptr());
        let options = sys::goalloc_options {
            struct_size: std::mem::size_of::<sys::goalloc_options>(),
            socket_path: pointer(&socket),
            label: pointer(&label),
            flags: self.flags,
            limit_bytes: self.limit_bytes,
            timeout_ms: self.timeout.map_or(0, |one| milliseconds(one).max(1)),
            group: pointer(&group),
        };

        if !life::claim() {
            let reason = "this process has a session, or has it from its parent".to_string();
            return Err(Error::Attach { errno: error::EALREADY, reason });
        }
        // SAFETY: the structure is complete, and its texts live until the call returns.
        let r = unsafe { sys::goalloc_attach(&options) };
        if r < 0 {
            let error = Error::attach(r);
            life::release();
            return Err(error);
        }
        life::set_read_only(self.flags & sys::GOALLOC_ATTACH_READONLY != 0);
        Ok(Session { _private: () })
    }
}

/// A process's time with the heap. Dropping it detaches: the heap is unmapped, so everything that points there borrows
/// from the session and is gone by then:
///
/// ```compile_fail,E0505
/// # fn f(session: goalloc::Session) -> goalloc::Result<()> {
/// let number = session.alloc(1u64)?;
/// drop(session); // it is borrowed
/// assert_eq!(*number, 1);
/// # Ok(())
/// # }
/// ```
///
/// Threads share it by reference, in `std::thread::scope()` or after [`Session::leak()`].
///
/// **Forks.** A session is not to be carried over fork() as if it were the same one. A forked child finds the parent's
/// values in its memory; the heap is mapped there, and the library makes the child a session of its own at its next
/// call that needs the daemon. What the parent owned alone is the parent's still: to drop an inherited
/// [`Owned`](crate::Owned) does nothing in the child. To attach with other options, the child drops the session that it
/// has inherited first, which detaches the child only.
///
/// **A heap that is gone.** Calls that need the daemon give [`Error::Stale`] once the heap was dropped. What is mapped
/// can still be read. Copy what is worth it, drop the session, attach anew, and look for the roots.
#[derive(Debug)]
pub struct Session {
    _private: (),
}

impl Session {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Attaches with the defaults: [`Builder::attach()`].
    ///
    /// # Safety
    ///
    /// That of [`Builder::attach()`].
    pub unsafe fn attach() -> Result<Session> {
        // SAFETY: the caller's promise.
        unsafe { Session::builder().attach() }
    }

    /// Detaches. Dropping the session does the same, and says nothing of errors: [`Error::TimedOut`] if something of
    /// this process that does not go through this crate is attaching for as long as the timeout. Then the process stays
    /// attached for good.
    pub fn detach(self) -> Result<()> {
        let r = self.leave();
        std::mem::forget(self);
        r
    }

    fn leave(&self) -> Result<()> {
        // SAFETY: the session is being consumed, and all that points into the heap has borrowed from it.
        check(unsafe { sys::goalloc_detach() })?;
        life::release();
        Ok(())
    }

    /// Never detaches: for programs whose threads use the heap until the process ends, which loses nothing.
    pub fn leak(self) -> &'static Session {
        Box::leak(Box::new(self))
    }

    /// False once the heap that is mapped here is nobody's any more. Two loads.
    pub fn is_current(&self) -> bool {
        // SAFETY: no arguments.
        unsafe { sys::goalloc_is_current() != 0 }
    }

    /// A number that tells this heap from all others.
    pub fn heap_id(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { sys::goalloc_heap_id() }
    }

    /// True for [`Builder::read_only()`].
    pub fn is_read_only(&self) -> bool {
        life::is_read_only()
    }

    /// What the heap and this session hold. A round trip; the daemon counts.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats { struct_size: std::mem::size_of::<Stats>(), ..Stats::default() };
        // SAFETY: the structure is there, and says how large it is.
        check(unsafe { sys::goalloc_stats(&mut stats) })?;
        Ok(stats)
    }

    /// Gives back to the daemon what this thread, and threads that have ended, hold idle. Two round trips.
    pub fn trim(&self) -> Result<()> {
        // SAFETY: no arguments.
        check(unsafe { sys::goalloc_trim() }).map(drop)
    }

    /// Has `goallocctl` call this session something else. A round trip.
    pub fn set_label(&self, label: &str) -> Result<()> {
        let label = c_string(label)?;
        // SAFETY: the text lives until the call returns.
        check(unsafe { sys::goalloc_set_label(label.as_ptr()) }).map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.leave(); // who wants to know calls detach()
    }
}

/// The version of the library that this program runs with, such as "1.0.0".
pub fn version() -> String {
    // SAFETY: no arguments; a constant string.
    error::text(unsafe { sys::goalloc_version() })
}
