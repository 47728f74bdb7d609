//! Events of the heap: who has ended, which roots have changed, that the heap is gone.
//!
//! The library has a descriptor for them, which becomes readable; it belongs to the session, which closes it when it
//! detaches. Events are hints to look: what one tells of may have changed since.
use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::raw::c_char;
use std::os::unix::io::{AsRawFd, RawFd};
use std::time::Duration;

use goalloc_sys as sys;

use crate::error::{check, Error, Result};
use crate::posix::{self, PollFd};
use crate::session::{milliseconds, Session};

/// Something that has happened in the heap.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session is over, and what it reclaims is free.
    SessionEnd {
        /// Its number, as `goallocctl` shows it.
        session: u64,
        /// Its process, as the daemon saw it.
        pid: i32,
        /// True: the process has exited, was killed, or has become another program; false: it has detached.
        died: bool,
        /// What the session was called.
        label: String,
        /// Its group; "": none.
        group: String,
    },
    /// A root was set, for the first time or again.
    RootSet(String),
    /// A root is gone.
    RootRemoved(String),
    /// The heap is nobody's any more. The last event.
    HeapGone,
    /// The arena, the system or a memory limit had no memory; once a second at most.
    MemoryShort,
    /// Some events are missing before this point: look at everything.
    Lost,
    /// The daemon waits for who can write, then saves the heap into an image and ends it: whoever is to be waited for
    /// finishes what it is at, and detaches, or ends.
    Stopping,
    /// What a later version tells of, to be passed over: its number.
    Other(u32),
}

/// The events of a session, from [`Session::events()`] on.
#[derive(Debug)]
pub struct Events<'s> {
    fd: RawFd,
    session: PhantomData<&'s Session>,
}

impl Session {
    /// Subscribes to events: of sessions of the same user or group, and of all roots. The first call is a connect and a
    /// round trip; later ones give the same descriptor, and each event goes to one of those who ask.
    pub fn events(&self) -> Result<Events<'_>> {
        // SAFETY: no arguments.
        let fd = check(unsafe { sys::goalloc_event_fd() })?;
        Ok(Events { fd, session: PhantomData })
    }
}

fn text(field: &[c_char]) -> String {
    match field.iter().position(|&one| one == 0) {
        // SAFETY: a zero byte is within the field.
        Some(_) => unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned(),
        None => String::new(),
    }
}

impl Events<'_> {
    /// The next event; `None`: there is none now. Never waits. [`Error::TimedOut`]: the daemon is away; the descriptor
    /// is readable again every 100 ms, and a call then looks. [`Error::Stale`]: [`Event::HeapGone`] was the last one.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        // SAFETY: numbers and characters, of which all bytes zero are valid.
        let mut event: sys::goalloc_event = unsafe { std::mem::zeroed() };
        event.struct_size = std::mem::size_of::<sys::goalloc_event>();
        // SAFETY: the structure is there, and says how large it is.
        if check(unsafe { sys::goalloc_next_event(&mut event) })? == 0 {
            return Ok(None);
        }
        Ok(Some(match event.kind {
            sys::GOALLOC_EVENT_SESSION_END => Event::SessionEnd {
                session: event.session,
                pid: event.pid,
                died: event.cause == sys::GOALLOC_CAUSE_DIED,
                label: text(&event.label),
                group: text(&event.group),
            },
            sys::GOALLOC_EVENT_ROOT_SET => Event::RootSet(text(&event.root)),
            sys::GOALLOC_EVENT_ROOT_REMOVED => Event::RootRemoved(text(&event.root)),
            sys::GOALLOC_EVENT_HEAP_GONE => Event::HeapGone,
            sys::GOALLOC_EVENT_MEMORY_SHORT => Event::MemoryShort,
            sys::GOALLOC_EVENT_LOST => Event::Lost,
            sys::GOALLOC_EVENT_STOPPING => Event::Stopping,
            other => Event::Other(other),
        }))
    }

    /// The next event, for which it waits so long; `None`: there was none, or a signal has ended the wait. A daemon
    /// that is away is no error here: the wait goes on for the next one.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let end = std::time::Instant::now().checked_add(timeout);
        loop {
            match self.try_next() {
                Ok(None) | Err(Error::TimedOut) => {}
                other => return other,
            }
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(std::time::Instant::now()));
            let mut one = PollFd { fd: self.fd, events: posix::POLLIN, revents: 0 };
            // SAFETY: one structure, that is there.
            if left.is_zero() || unsafe { posix::poll(&mut one, 1, milliseconds(left)) } < 0 {
                return Ok(None);
            }
        }
    }
}

/// For poll(), epoll and loops of others: readable when [`Events::try_next()`] has something to say. Nobody else reads
/// or closes it.
impl AsRawFd for Events<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}
