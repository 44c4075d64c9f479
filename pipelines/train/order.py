"""The order of the training data, as a function: no state to save, none to lose.

Sample number ``n`` of a run is sample ``permutation(n mod size)`` of epoch ``n div size``. The permutation is a
Feistel network (Luby & Rackoff 1988) over the next power of four, walked until it falls inside the set (Black &
Rogaway 2002), keyed by seed and epoch: constant memory for any size, and the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 6
WINDOW = 64
Indices = np.ndarray[Any, np.dtype[np.int64]]


def sample_indices(first: int, count: int, size: int, seed: int) -> Indices:
    """Which samples a run sees at its positions ``first … first + count - 1``; each once in every epoch."""
    positions = np.arange(first, first + count, dtype=np.int64)
    epochs, places = np.divmod(positions, size)
    result = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        result[chosen] = permute(places[chosen], size, seed, int(epoch))
    return result


def sample_visits(first: int, count: int, size: int, seed: int) -> Indices:
    """The same, each sample's number raised by ``size`` for every epoch before: which sample, and which visit to it.

    Samples that are drawn anew each time (masked tokens, corrupted spans) draw by this number; others take it
    modulo ``size``.
    """
    positions = np.arange(first, first + count, dtype=np.int64)
    return sample_indices(first, count, size, seed) + positions // size * size


class BatchOrder:
    """The visits of each batch of a run. They are worked out for many batches at once, which costs as much as for one.

    Args:
        batch: samples in a batch.
        size: samples there are.
    """

    def __init__(self, batch: int, size: int, seed: int) -> None:
        self._batch, self._size, self._seed = batch, size, seed
        self._window = -1
        self._visits: Indices = np.empty(0, np.int64)

    def visits(self, number: int) -> Indices:
        """:func:`sample_visits` of a batch counted from 0."""
        window, place = divmod(number, WINDOW)
        if window != self._window:
            self._window = window
            first, count = window * WINDOW * self._batch, WINDOW * self._batch
            self._visits = sample_visits(first, count, self._size, self._seed)
        return self._visits[place * self._batch : (place + 1) * self._batch]


def permute(places: Indices, size: int, seed: int, epoch: int) -> Indices:
    """Where a permutation of 0 … size-1 sends each place."""
    half_bits = max(-(-(max(size - 1, 1)).bit_length() // 2), 1)
    keys = _mix(np.arange(1, ROUNDS + 1, dtype=np.uint64) + _mix(np.uint64(seed) + _mix(np.uint64(epoch))))
    values = _feistel(places.astype(np.uint64), half_bits, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: Any, half_bits: int, keys: Any) -> Any:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(value: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every bit of the result depends on every bit of the value."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
