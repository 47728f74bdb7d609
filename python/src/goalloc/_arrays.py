"""NumPy arrays in the shared heap: see docs/PYTHON_ARRAYS.md.

The names here are goalloc's: goalloc.share, goalloc.publish and so on; the package imports this module, and with it
NumPy, at the first use of one of them.
"""

import ast
import os

try:
    import numpy as np
    from numpy.lib.format import descr_to_dtype, dtype_to_descr
except ImportError as error:
    raise ImportError(f"goalloc's arrays need NumPy (Debian: apt install python3-numpy): {error}") from error
try:
    from . import _numpy
except ImportError as error:
    raise ImportError(f"this build of goalloc has no part for this Python and NumPy: {error}") from error


class SharedArray(np.ndarray):
    """An array in the shared heap, or a view of one. Pickled, it is a reference: the data stay where they are.

    What is computed from one is an ordinary array, in private memory. np.array(a) is a copy that pickles as ever.
    __array_wrap__ and __reduce_ex__, which do so, are added by _numpy.c.
    """

    def __deepcopy__(self, memo):
        return np.array(self, subok=False)

    def __copy__(self):
        return np.array(self, subok=False)


class arrays:
    """A context: arrays that NumPy makes within it lie in the shared heap.

        with goalloc.arrays():
            a = np.zeros(1 << 20)

    It holds for the thread, or the task of asyncio, that enters it. Such arrays are this process's: they end with it.
    """

    def __init__(self):
        self._before = []

    def __enter__(self):
        self._before.append(_numpy.set_handler(_numpy.handler))
        return self

    def __exit__(self, *unused):
        _numpy.set_handler(self._before.pop())


def share(array):
    """A copy of the array in the shared heap, to be sent to other processes; a SharedArray is returned as it is."""
    return _numpy.share(array)


def shared_empty(shape, dtype=float, order="C"):
    """A new SharedArray, uninitialised: what is computed into it needs no copy."""
    if order not in ("C", "F"):
        raise ValueError(f"order {order!r} is neither 'C' nor 'F'")
    return _numpy.empty(shape, dtype, order == "F")


def publish(name, array):
    """Give an array a name by which every process of the heap opens it. FileExistsError if the name is taken.

    What is returned is the array of that name: `array` itself if it is shared and has no name yet, else a copy.
    """
    result = _numpy.share(array)
    text = repr(dtype_to_descr(result.dtype))
    try:
        is_named = _numpy.publish(result, name, text)
    except FileExistsError:
        if not _is_left_over(name):
            raise
        is_named = _numpy.publish(result, name, text)
    if not is_named:
        result = _numpy.share(np.array(array, subok=False))
        _numpy.publish(result, name, text)
    return result


def _is_left_over(name):
    """True if a root of that name was a killed process's, which led nowhere; it is removed."""
    try:
        _numpy.lookup(name)
    except FileNotFoundError:
        return True
    except ValueError:
        pass
    return False


def open(name, *, writable=False):
    """The array of that name, without a copy. FileNotFoundError; ValueError if its description is damaged."""
    hold, offset, shape, strides, text = _numpy.lookup(name)
    try:
        dtype = descr_to_dtype(ast.literal_eval(text))
    except Exception as error:  # whatever a text can do that somebody has scribbled on
        raise ValueError(f"the description of {name!r} has no dtype") from error
    return _numpy.view(hold, offset, shape, strides, dtype, writable)


def unlink(name):
    """Take the name away. The array lives for as long as somebody has it. FileNotFoundError."""
    _numpy.unlink(name)


def is_shared(array):
    """True if the array is sent to other processes without a copy."""
    return _numpy.is_shared(array)


def in_heap(array):
    """True if the array's data lie in the shared heap: shared, or made within arrays()."""
    return _numpy.contains(array)


def collect_arrays():
    """Return what dead processes, unread messages of groups that have ended, and removed names hold.

    (processes, references, arrays): how many were dead, how many references went, and how many arrays by that.
    """
    return _numpy.collect()


_numpy.set_shared_type(SharedArray)
os.register_at_fork(before=_numpy.before_fork, after_in_child=_numpy.after_fork_in_child)
