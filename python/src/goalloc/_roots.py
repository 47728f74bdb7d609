"""The heap's roots as a mapping of names to buffers."""

from collections.abc import MutableMapping

from . import _core

_NONE = object()
_OWN = ("goalloc.dict.", "goalloc.python.")


class Roots(MutableMapping):
    """goalloc.roots: what other processes find by a name, C programs too (goalloc_root_get()).

    A root holds its buffer until it is removed or replaced from Python. A root that a C program has set is a borrowed
    buffer: how long its memory lasts is that program's to say. Each access is a request to the daemon. The package's
    own roots (dictionaries) are not listed.
    """

    def __getitem__(self, name):
        buffer = _core.root_get(_checked(name))
        if buffer is None:
            raise KeyError(name)
        return buffer

    def __setitem__(self, name, buffer):
        _core.root_set(_checked(name), buffer, False)

    def __delitem__(self, name):
        if not _core.root_remove(_checked(name)):
            raise KeyError(name)

    def __iter__(self):
        return iter(self.names())

    def __len__(self):
        return len(self.names())

    def __contains__(self, name):
        return isinstance(name, str) and _core.root_get(name) is not None

    def pop(self, name, default=_NONE):
        """The buffer of that name, which is gone then: of many who pop it, one gets it."""
        buffer = _core.root_pop(_checked(name))
        if buffer is not None:
            return buffer
        if default is _NONE:
            raise KeyError(name)
        return default

    def popitem(self):
        for name in self.names():
            buffer = _core.root_pop(name)
            if buffer is not None:
                return name, buffer
        raise KeyError("there is no root")

    def setdefault(self, name, default):
        """The buffer that is there, or this one, which is then: one of many gets its own."""
        while True:
            buffer = _core.root_get(_checked(name))
            if buffer is not None:
                return buffer
            if _core.root_set(name, default, True):
                return default

    def clear(self):
        raise TypeError("roots are of all processes: remove those that are yours")

    def names(self, prefix=""):
        """A list of the names that begin so."""
        return [name for name in _core.root_names(prefix or None) if not name.startswith(_OWN)]

    def wait(self, name, timeout=None):
        """The buffer of that name, as soon as there is one. TimeoutError after so many seconds."""
        buffer = _core.root_wait(_checked(name), -1 if timeout is None else max(0, min(int(timeout * 1000), 2**31 - 1)))
        if buffer is None:
            raise TimeoutError(f"no root {name!r} within {timeout} s")
        return buffer

    def __repr__(self):
        return "<goalloc.roots>"


def _checked(name):
    if not isinstance(name, str):
        raise TypeError(f"a root's name is a str, not {type(name).__name__}")
    if not name or "\0" in name:
        raise ValueError("a root's name is not empty, and has no zero in it")
    return name


roots = Roots()
