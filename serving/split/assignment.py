"""Which variant answers whom: users are hashed onto fixed buckets, and buckets belong to variants.

A user's bucket depends on the user and the experiment only, so it never changes; a change of weights hands over
whole buckets, and only as many as it must. Plain data and arithmetic: no Ray, no HTTP.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError

BUCKETS = 10_000
"""Fixed for ever: another number would move every user. Shares are exact to 0.01 %."""


def bucket_of(experiment: str, key: str) -> int:
    """The bucket, 0 … BUCKETS-1, of a user or session key; BLAKE2b (RFC 7693) salted by the experiment's name."""
    salted = f"{experiment}\0{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(salted, digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that are not a split.

    Raises:
        UserError: a weight is negative or not a number, or none is above 0.
    """
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise UserError(
                f"a weight must be a number of at least 0 (got {weight!r})",
                where=f"variant {name}",
                next_step="weights are relative: 90 and 10, or 0.9 and 0.1",
            )
    if sum(weights.values()) <= 0:
        raise UserError("at least one variant needs a weight above 0", where="weights", next_step="raise one of them")


def bucket_counts(weights: Mapping[str, float], held: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many buckets each variant should own: proportional, rounded by largest remainder, BUCKETS in all.

    Args:
        held: how many each owns now; of equal remainders those are rounded up that would give one back otherwise.
    """
    check_weights(weights)
    total = math.fsum(weights.values())
    exact = {name: BUCKETS * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    held = held or {}
    by_remainder = sorted(
        weights, key=lambda name: (round(counts[name] - exact[name], 6), held.get(name, 0) <= counts[name])
    )
    for name in by_remainder[: BUCKETS - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Assignment:
    """Where one request goes.

    Attributes:
        variant: the variant that answers.
        bucket: the user's bucket.
        sticky: whether a key decided; without one the bucket was drawn at random.
    """

    variant: str
    bucket: int
    sticky: bool


@dataclass(frozen=True)
class Allocation:
    """Who owns which bucket.

    Attributes:
        owners: bucket -> variant.
        since: bucket -> the version at which its owner got it.
        version: counts the changes, from 0.
    """

    owners: tuple[str, ...]
    since: tuple[int, ...]
    version: int

    @classmethod
    def first(cls, weights: Mapping[str, float]) -> Allocation:
        """The allocation that an experiment starts with.

        Raises:
            UserError: the weights are not a split.
        """
        owners = tuple(name for name, count in bucket_counts(weights).items() for _ in range(count))
        return cls(owners, (0,) * BUCKETS, 0)

    def reweighted(self, weights: Mapping[str, float]) -> Allocation:
        """The allocation after a change of weights; variants may come and go.

        The fewest buckets that can change hands do. A variant that shrinks gives back what it got last, so that
        raising a share and lowering it again returns the same users.

        Raises:
            UserError: the weights are not a split.
        """
        targets = bucket_counts(weights, Counter(self.owners))
        held: dict[str, list[int]] = {name: [] for name in {*targets, *self.owners}}
        for bucket in sorted(range(BUCKETS), key=lambda bucket: (self.since[bucket], bucket)):
            held[self.owners[bucket]].append(bucket)
        free = sorted(bucket for name, own in held.items() for bucket in own[targets.get(name, 0) :])
        owners, since = list(self.owners), list(self.since)
        for name, target in targets.items():
            for bucket in (free.pop() for _ in range(target - len(held[name]))):
                owners[bucket], since[bucket] = name, self.version + 1
        return Allocation(tuple(owners), tuple(since), self.version + 1)

    def assign(self, experiment: str, key: str | None) -> Assignment:
        """The variant for a key, always the same one; for no key, one drawn by weight."""
        bucket = random.randrange(BUCKETS) if key is None else bucket_of(experiment, key)
        return Assignment(self.owners[bucket], bucket, key is not None)

    def encode(self) -> dict[str, Any]:
        """As plain JSON values: runs of (owner, since, length), and the version."""
        runs = [
            [owner, since, len(list(group))]
            for (owner, since), group in itertools.groupby(zip(self.owners, self.since, strict=True))
        ]
        return {"version": self.version, "runs": runs}

    @classmethod
    def decode(cls, encoded: Mapping[str, Any]) -> Allocation:
        """The allocation that :meth:`encode` gave.

        Raises:
            ValueError: the runs do not cover every bucket once.
        """
        owners: list[str] = []
        since: list[int] = []
        for owner, began, length in encoded["runs"]:
            owners += [str(owner)] * int(length)
            since += [int(began)] * int(length)
        if len(owners) != BUCKETS:
            raise ValueError(f"the allocation covers {len(owners)} buckets, not {BUCKETS}")
        return cls(tuple(owners), tuple(since), int(encoded["version"]))

    def shares(self) -> dict[str, float]:
        """Variant -> the share of buckets that it owns, 0 … 1; variants that own none are absent."""
        return {name: self.owners.count(name) / BUCKETS for name in dict.fromkeys(self.owners)}
