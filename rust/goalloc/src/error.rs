//! Errors: what a call of the library has returned, by what a program would do about it.
//!
//! Every function of this crate that can fail returns [`Error`]. The numbers of errno that the library uses with one
//! meaning have a variant of their own; the rest are [`Error::Os`]. Nothing here is shared.
use std::ffi::CStr;
use std::fmt;
use std::os::raw::c_int;

use goalloc_sys as sys;

/// What `Result` means in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What has failed, and so what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The attach has failed: the errno, and the reason as a sentence with the socket's path.
    Attach {
        /// The positive errno of `goalloc_attach()`.
        errno: i32,
        /// For people; the words may change.
        reason: String,
    },
    /// This process is not attached.
    NotAttached,
    /// The heap is nobody's any more, or this session was disconnected. Drop the session, and attach anew.
    Stale,
    /// No daemon answers within the timeout of the attach, or what was waited for has not come. Later it may.
    TimedOut,
    /// The socket is there, and may not be used.
    Denied,
    /// The directory of the socket is gone, as after a chroot.
    NoSocket,
    /// The session is attached read-only.
    ReadOnly,
    /// The memory of the system, of the daemon's cgroup or of this process is used up, or the heap's hard limit.
    OutOfMemory,
    /// The arena is full, or the table of roots.
    Full,
    /// A limit of the session, its group or its user.
    Limit,
    /// The root is there with another type, size or length.
    WrongType,
    /// A root may only be changed by the user who has made it.
    NotOwner,
    /// A name is empty, too long, not UTF-8 or has a zero byte.
    BadName,
    /// This thread holds that mutex, or is making that root.
    Deadlock,
    /// The mutex is held by somebody else.
    Busy,
    /// What the daemon is asked for is too much at once, for now; or too many threads are at it.
    Again,
    /// The object is no live object any more: somebody has freed it who had no right to.
    NotLive,
    /// Any other errno, positive. [`fmt::Display`] says what it means.
    Os(i32),
}

// The numbers of Linux, which are the same on all architectures of Rust's that have these crates.
pub(crate) const EPERM: c_int = 1;
pub(crate) const ENOENT: c_int = 2;
pub(crate) const EAGAIN: c_int = 11;
pub(crate) const ENOMEM: c_int = 12;
pub(crate) const EACCES: c_int = 13;
pub(crate) const EBUSY: c_int = 16;
pub(crate) const EINVAL: c_int = 22;
pub(crate) const ENOSPC: c_int = 28;
pub(crate) const EROFS: c_int = 30;
pub(crate) const EDEADLK: c_int = 35;
pub(crate) const ENAMETOOLONG: c_int = 36;
pub(crate) const EILSEQ: c_int = 84;
pub(crate) const ENOTCONN: c_int = 107;
pub(crate) const ETIMEDOUT: c_int = 110;
pub(crate) const EALREADY: c_int = 114;
pub(crate) const ESTALE: c_int = 116;
pub(crate) const EDQUOT: c_int = 122;
pub(crate) const EMEDIUMTYPE: c_int = 124;
pub(crate) const ECANCELED: c_int = 125;
pub(crate) const EOWNERDEAD: c_int = 130;

const MEANINGS: &[(c_int, Error)] = &[
    (EPERM, Error::NotOwner),
    (ENOENT, Error::NoSocket),
    (EAGAIN, Error::Again),
    (ENOMEM, Error::OutOfMemory),
    (EACCES, Error::Denied),
    (EBUSY, Error::Busy),
    (ENOSPC, Error::Full),
    (EROFS, Error::ReadOnly),
    (EDEADLK, Error::Deadlock),
    (ENAMETOOLONG, Error::BadName),
    (EILSEQ, Error::BadName),
    (ENOTCONN, Error::NotAttached),
    (ETIMEDOUT, Error::TimedOut),
    (EALREADY, Error::NotLive),
    (ESTALE, Error::Stale),
    (EDQUOT, Error::Limit),
    (EMEDIUMTYPE, Error::WrongType),
];

/// A string of the library's own: never NULL, and constant.
pub(crate) fn text(p: *const std::os::raw::c_char) -> String {
    // SAFETY: goalloc.h promises a terminated string that stays until this thread's next attach at least.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

impl Error {
    /// Of an errno, positive or negative, as the library returns it or leaves it behind.
    pub(crate) fn from_errno(errno: c_int) -> Error {
        let errno = errno.saturating_abs();
        let known = MEANINGS.iter().find(|(number, _)| *number == errno);
        known.map_or(Error::Os(errno), |(_, error)| error.clone())
    }

    /// After a call that has returned NULL.
    pub(crate) fn last() -> Error {
        Error::from_errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(EINVAL))
    }

    /// After an attach that has failed, in the same thread.
    pub(crate) fn attach(errno: c_int) -> Error {
        // SAFETY: no arguments; the answer is copied at once.
        let reason = text(unsafe { sys::goalloc_attach_error() });
        Error::Attach { errno: errno.saturating_abs(), reason }
    }

    /// The errno that it stands for, positive: that of [`Error::BadName`] is EILSEQ.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Attach { errno, .. } | Error::Os(errno) => *errno,
            Error::BadName => EILSEQ,
            other => MEANINGS.iter().find(|(_, error)| error == other).map_or(EINVAL, |(number, _)| *number),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Attach { reason, .. } if !reason.is_empty() => f.write_str(reason),
            Error::BadName => f.write_str("the name is empty, too long, or no text without zero bytes"),
            // SAFETY: any number is allowed, and the answer is a constant string.
            other => f.write_str(&text(unsafe { sys::goalloc_strerror(other.errno()) })),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
        std::io::Error::new(kind, error)
    }
}

/// 0 or above is success.
pub(crate) fn check(r: c_int) -> Result<c_int> {
    if r < 0 {
        Err(Error::from_errno(r))
    } else {
        Ok(r)
    }
}
