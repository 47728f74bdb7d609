"""Types of how this process takes part in the heap: see _heap.py."""

import os
from types import TracebackType

from ._core import Buffer, Dict
from ._core import is_attached as is_attached
from ._core import is_current as is_current

class Session:
    def __enter__(self) -> Session: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

def attach(
    socket: str | os.PathLike[str] | None = None,
    label: str | None = None,
    group: str | None = None,
    reclaim: bool = True,
    *,
    readonly: bool = False,
    wait: bool = False,
    dump: bool = False,
    limit: int = 0,
    timeout: float = 5.0,
) -> Session: ...
def detach() -> None: ...
def _join(ticket: tuple[int, str | None, str | None, str | None, int, int, int]) -> None: ...
def _open_handle(ticket: tuple[int, str | None, str | None, str | None, int, int, int], handle: str) -> Buffer: ...
def _open_dict(ticket: tuple[int, str | None, str | None, str | None, int, int, int], name: str) -> Dict: ...
