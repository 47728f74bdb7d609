"""SharedMemory and ShareableList with the interface of multiprocessing.shared_memory, in the shared heap.

    from goalloc import shared_memory      # instead of: from multiprocessing import shared_memory

A segment is a block of the heap with a name. It lives until it is unlinked and nobody has it open any more; a process
that is killed has nothing open. There is no resource tracker: no process removes what another one still uses, and
nothing is removed because a process has ended. Making and opening one takes no system call as long as the heap has
memory at hand, and its size is what was asked for.

The private names are those of the standard library that programs and its own tests use.
"""

import importlib.util
import os
import secrets

from . import _core
from ._heap import _join

__all__ = ["SharedMemory", "ShareableList"]

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
_O_CREX = os.O_CREAT | os.O_EXCL


def _make_filename():
    return _SHM_NAME_PREFIX + secrets.token_hex(6)


class SharedMemory:
    """A named block of memory. SharedMemory(name=None, create=False, size=0), as in the standard library.

    track is taken for compatibility: nothing is tracked.
    """

    _name = None
    _size = 0
    _buffer = None
    _buf = None
    _flags = os.O_RDWR
    _prepend_leading_slash = True

    def __init__(self, name=None, create=False, size=0, *, track=True):
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        if name is None:
            while self._buffer is None:
                self._name = _make_filename()
                try:
                    self._buffer = _segment(self._name, True, size)
                except FileExistsError:
                    pass
        else:
            self._name = name if name.startswith("/") else "/" + name
            self._buffer = self._open(size)
        self._size = self._buffer.size
        self._buf = memoryview(self._buffer)

    def _open(self, size):
        if self._flags & os.O_EXCL:
            return _segment(self._name, True, size)
        while True:
            try:
                return _segment(self._name, False, 0)
            except FileNotFoundError:
                if not self._flags & os.O_CREAT:
                    raise
            try:
                return _segment(self._name, True, size)
            except FileExistsError:
                pass  # somebody has made it just now

    def __del__(self):
        try:
            self.close()
        except (BufferError, OSError, TypeError, AttributeError):
            pass  # views are left, or Python ends: it is closed with them

    def __reduce__(self):
        return _reopen, (self.__class__, _core.ticket(), self.name)

    def __repr__(self):
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self):
        """A memoryview of the block, until close()."""
        return self._buf

    @property
    def name(self):
        """The name by which other processes open it."""
        return self._name[1:] if self._name.startswith("/") and self._prepend_leading_slash else self._name

    @property
    def size(self):
        """Bytes: as many as were asked for."""
        return self._size

    def close(self):
        """This object has the segment no more. BufferError while other views of it are in use."""
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._buffer is not None:
            self._buffer.free()
            self._buffer = None

    def unlink(self):
        """Take the name away; the memory goes when nobody has it open. FileNotFoundError if it is gone already."""
        _core.segment_unlink(self._name)


def _segment(name, create, size):
    if len(name) < 2 or "\0" in name or len(name.encode()) > 255:
        raise ValueError(f"{name!r}: a name has 1 to 254 bytes, none of them zero")
    return _core.segment(name, create, size)


def _reopen(kind, ticket, name):
    """What a pickled SharedMemory is opened by."""
    _join(ticket)
    return kind(name)


def __getattr__(name):
    """ShareableList is the standard library's, over this SharedMemory: made when somebody asks for it."""
    if name != "ShareableList":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    spec = importlib.util.spec_from_file_location(
        "multiprocessing.shared_memory", importlib.util.find_spec("multiprocessing").submodule_search_locations[0] +
        "/shared_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SharedMemory = SharedMemory
    module.ShareableList.__module__ = __name__
    globals()["ShareableList"] = module.ShareableList
    return module.ShareableList
