"""Attach and detach: how this process takes part in the heap."""

import os

from . import _core

is_attached = _core.is_attached
is_current = _core.is_current


class Session:
    """What attach() returns: a context manager whose end detaches. It has no state: a process attaches once."""

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if _core.is_attached():
            _core.detach()

    def __repr__(self):
        return f"<goalloc.Session of heap {_core.heap_id():#x}>" if _core.is_attached() else "<goalloc.Session, detached>"


def attach(
    socket=None, label=None, group=None, reclaim=True, *, readonly=False, wait=False, dump=False, limit=0, timeout=5.0
):
    """Attach this process to the daemon that serves the socket ($GOALLOC_SOCKET, or the system's).

    group      processes that name the same one own together what they have not shared: nothing of it is lost when one
               of them dies, and it is freed when the last one has ended
    reclaim    what this process has allocated and not shared is freed when it ends, or with its group
    readonly   without write access: buffers are read-only, nothing can be allocated or changed
    wait       a daemon may be on its way up: try again for `timeout` seconds
    dump       core dumps hold the heap
    limit      the most bytes that this process may hold; 0: the daemon's limit
    timeout    seconds that a request to the daemon may take
    """
    flags = 0
    if reclaim:
        flags |= _core.ATTACH_RECLAIM
    if readonly:
        flags |= _core.ATTACH_READONLY
    if dump:
        flags |= _core.ATTACH_DUMP
    if not 0.001 <= timeout <= 2_000_000:
        raise ValueError(f"timeout: {timeout} s; it is between 0.001 and 2000000")
    if limit < 0:
        raise ValueError(f"limit: {limit}; it is a number of bytes, or 0")
    path = None if socket is None else os.path.abspath(os.fsdecode(socket))
    _core.attach(path, label, group, flags, limit, int(timeout * 1000), wait)
    return Session()


def detach():
    """Leave the heap. BufferError while a view or an array of it is in use; other buffers are freed, or given up."""
    _core.detach()


def _join(ticket):
    """Attach as the process that has made the ticket is, unless this one is attached already; to the same heap."""
    heap_id, socket, label, group, flags, limit, timeout_ms = ticket
    if not _core.is_attached():
        _core.attach(socket, label, group, flags, limit, timeout_ms, False)
    if _core.heap_id() != heap_id:
        raise _core.HeapGoneError(
            116, f"this object is of heap {heap_id:#x}, and this process is attached to {_core.heap_id():#x}"
        )


def _open_handle(ticket, handle):
    """What a pickled Buffer is opened by."""
    _join(ticket)
    return _core.from_handle(handle, True)


def _open_dict(ticket, name):
    """What a pickled Dict is opened by."""
    _join(ticket)
    return _core.Dict(name)
