"""Types of the package goalloc; docs/PYTHON.md says what they do."""

import builtins

from . import shared_memory as shared_memory
from ._arrays import SharedArray as SharedArray
from ._arrays import arrays as arrays
from ._arrays import collect_arrays as collect_arrays
from ._arrays import in_heap as in_heap
from ._arrays import is_shared as is_shared
from ._arrays import open as open
from ._arrays import publish as publish
from ._arrays import share as share
from ._arrays import shared_empty as shared_empty
from ._arrays import unlink as unlink
from ._core import Buffer as Buffer
from ._core import Dict as Dict
from ._core import HeapGoneError as HeapGoneError
from ._heap import Session as Session
from ._heap import attach as attach
from ._heap import detach as detach
from ._heap import is_attached as is_attached
from ._heap import is_current as is_current
from ._roots import Roots as Roots
from ._roots import roots as roots
from .shared_memory import SharedMemory as SharedMemory

__version__: str

def heap_id() -> int: ...
def library_version() -> str: ...
def set_label(label: str | None, /) -> None: ...
def stats() -> builtins.dict[str, int]: ...
def trim() -> None: ...
def collect() -> int: ...
def alloc(size: int) -> Buffer: ...
def handle(buffer: Buffer) -> str: ...
def from_handle(text: str, *, take: bool = False) -> Buffer: ...
def drop_handle(text: str) -> None: ...
def dict(name: str, *, max_bytes: int = 0) -> Dict: ...
