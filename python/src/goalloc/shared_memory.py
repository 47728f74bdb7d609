"""SharedMemory with the interface of multiprocessing.shared_memory, in the shared heap.

    from goalloc.shared_memory import SharedMemory      # instead of multiprocessing.shared_memory

A segment is a block of the heap with a name. It lives until it is unlinked and nobody has it open any more; a process
that is killed has nothing open. There is no resource tracker: no process removes what another one still uses, and
nothing is removed because a process has ended. Making and opening one takes no system call as long as the heap has
memory at hand.
"""

import secrets

from . import _core
from ._heap import _join

__all__ = ["SharedMemory"]


class SharedMemory:
    """A named block of memory. SharedMemory(name=None, create=False, size=0), as in the standard library."""

    _buffer = None
    _buf = None
    _name = None

    def __init__(self, name=None, create=False, size=0):
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create and size == 0:
            raise ValueError("'size' must be a positive number different from zero")
        if name is None and not create:
            raise ValueError("'name' can only be None if create=True")
        if name is None:
            while True:
                name = "psm_" + secrets.token_hex(4)
                try:
                    self._buffer = _core.segment(name, True, size)
                except FileExistsError:
                    continue
                break
        else:
            name = name[1:] if name.startswith("/") else name
            if not name or "\0" in name or len(name.encode()) > 255:
                raise ValueError(f"{name!r}: a name has 1 to 255 bytes, none of them zero")
            self._buffer = _core.segment(name, create, size)
        self._name = name
        self._size = self._buffer.size
        self._buf = memoryview(self._buffer)

    def __del__(self):
        try:
            self.close()
        except (BufferError, OSError, TypeError, AttributeError):
            pass  # views are left, or Python ends: what is open is closed with them

    def __reduce__(self):
        return _open, (_core.ticket(), self.name)

    def __repr__(self):
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self):
        """A memoryview of the block, until close()."""
        return self._buf

    @property
    def name(self):
        """The name by which other processes open it."""
        return self._name

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


def _open(ticket, name):
    _join(ticket)
    return SharedMemory(name)
