"""One managed heap in shared memory for several processes.

    import goalloc

    goalloc.attach()                       # or nothing: the first call that needs the heap attaches
    cache = goalloc.dict("sessions")       # bytes to bytes, for all processes, whoever is killed when
    cache[b"user:1"] = b"Ada"
    buffer = goalloc.alloc(1 << 20)        # memory of the heap
    memoryview(buffer)[:5] = b"hello"
    goalloc.roots["greeting"] = buffer     # other processes find it by its name

docs/PYTHON.md is the reference. The heap is goallocd's, and this package uses libgoalloc: what goalloc.h promises
holds here as well. NumPy's part is in _arrays.py: goalloc.share(), goalloc.arrays() and so on need NumPy, and import it.
"""

import os as _os

try:
    from . import _core
except ImportError as _error:
    if "libgoalloc" not in str(_error):
        raise
    raise ImportError(
        f"goalloc needs the library libgoalloc.so.1, which the dynamic linker does not find "
        f"(Debian: apt install libgoalloc1; else ldconfig, or LD_LIBRARY_PATH): {_error}",
        name="goalloc",
    ) from _error

from ._core import Buffer, Dict, HeapGoneError
from ._heap import Session, attach, detach, is_attached, is_current, _join
from ._roots import Roots, roots
from .shared_memory import SharedMemory

__version__ = "1.0.0"

__all__ = [
    "Buffer",
    "Dict",
    "HeapGoneError",
    "Roots",
    "Session",
    "SharedMemory",
    "alloc",
    "attach",
    "collect",
    "detach",
    "dict",
    "drop_handle",
    "from_handle",
    "handle",
    "heap_id",
    "is_attached",
    "is_current",
    "library_version",
    "roots",
    "set_label",
    "stats",
    "trim",
]

heap_id = _core.heap_id
library_version = _core.library_version
set_label = _core.set_label
stats = _core.stats
trim = _core.trim


def alloc(size):
    """A Buffer of that many bytes, zeroed."""
    return _core.alloc(size)


def handle(buffer):
    """A text by which others open the buffer (from_handle); it lives until drop_handle(), or this process's end."""
    return buffer.handle()


def from_handle(text, *, take=False):
    """The buffer of a handle. take: the handle is dropped, so it serves once."""
    return _core.from_handle(text, take)


def drop_handle(text):
    """The handle holds its buffer no more. ValueError if it has been dropped already."""
    _core.drop_handle(text)


def dict(name, *, max_bytes=0):  # the name that users write: goalloc.dict
    """The dictionary of that name, for all processes, made if it is not there. Above max_bytes entries are evicted."""
    return Dict(name, max_bytes)


def collect():
    """Free what dead processes have left in use: buffers and, if NumPy is there, arrays. How many were freed."""
    freed = _core.collect()
    try:
        from ._arrays import collect_arrays
    except ImportError:
        return freed
    return freed + collect_arrays()[2]


# NumPy's part (_arrays.py), imported at the first use of one of these.
_ARRAYS = (
    "SharedArray",
    "arrays",
    "collect_arrays",
    "in_heap",
    "is_shared",
    "open",
    "publish",
    "share",
    "shared_empty",
    "unlink",
)


def __getattr__(name):
    if name in _ARRAYS:
        from . import _arrays

        globals().update((each, getattr(_arrays, each)) for each in _ARRAYS)  # the next look is an ordinary one
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_ARRAYS])


_os.register_at_fork(before=_core.before_fork, after_in_child=_core.after_fork_in_child)
