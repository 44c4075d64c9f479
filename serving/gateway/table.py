"""What a gateway needs to know, in one value that replaces the one before: who answers whom, where, how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.access.keys import ApiKey
from serving.config import LimitsConfig, PromptConfig, ShadowConfig
from serving.split.assignment import Allocation


@dataclass(frozen=True)
class VariantRoute:
    """How one variant is reached.

    Attributes:
        engine_model: the model name that its engines know.
        addresses: base URLs of the engines that answer for it now.
        prompt: what is put around the callers' words.
        asleep: scaled to zero: a request wakes it and waits.
    """

    engine_model: str
    addresses: tuple[str, ...] = ()
    prompt: PromptConfig | None = None
    asleep: bool = False


@dataclass(frozen=True)
class RouteTable:
    """Everything that a gateway is told; the controller pushes a new one on every change.

    Attributes:
        model: the public model name.
        experiment: salts the assignment of users.
        allocation: who owns which bucket.
        variants: every variant, also those without users.
        key: the bearer token between gateways and engines.
        serial: a higher one replaces a lower one; pushes may overtake each other.
        version: the version of the deployment's state that it shows.
        created: seconds since the epoch, for ``/v1/models``.
        rollout: (baseline, candidate) while requests are to be observed, else None.
    """

    model: str
    experiment: str
    allocation: Allocation
    variants: Mapping[str, VariantRoute]
    key: str = field(repr=False)
    serial: int
    created: int
    version: int = 0
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    keys: tuple[ApiKey, ...] = ()
    require_keys: bool = False
    fallback: bool = True
    shadow: ShadowConfig | None = None
    rollout: tuple[str, str] | None = None
