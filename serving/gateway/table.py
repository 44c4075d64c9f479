"""What a gateway needs to know, in one value that replaces the one before: who answers whom, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.split.assignment import Allocation


@dataclass(frozen=True)
class RouteTable:
    """Everything that a gateway is told; the controller pushes a new one on every change.

    Attributes:
        model: the public model name.
        experiment: salts the assignment of users.
        allocation: who owns which bucket.
        addresses: variant -> base URLs of the engines that answer for it now.
        key: the bearer token between gateways and engines.
        serial: a higher one replaces a lower one; pushes may overtake each other.
        created: seconds since the epoch, for ``/v1/models``.
    """

    model: str
    experiment: str
    allocation: Allocation
    addresses: Mapping[str, tuple[str, ...]]
    key: str = field(repr=False)
    serial: int
    created: int
