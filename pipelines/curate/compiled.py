"""Functions that numba compiles; the machine code is kept on disk where numba finds a folder it may write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def compiled(function: FunctionT) -> FunctionT:
    """The function as machine code, made at its first call in a process, or read from disk if it was made before."""
    try:
        done = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # a read-only install for a user without a home: compile anew in every process
        done = numba.njit(nogil=True)(function)
    return done
