"""The model that an aligned one must not drift away from: what it was before; free where adapters are trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Reference:
    """The starting model. Made before training, also of a run that continues: adapters begin without effect.

    Args:
        model: the one that is trained, with its starting weights.
    """

    def __init__(self, model: Any) -> None:
        self._adapted = model if hasattr(model, "disable_adapter") else None
        self._copy: nn.Module | None = None
        if self._adapted is None:
            self._copy = copy.deepcopy(model).requires_grad_(False).eval()

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The reference, for forward passes without gradients."""
        if self._adapted is None:
            yield self._copy
            return
        with self._adapted.disable_adapter():
            yield self._adapted
