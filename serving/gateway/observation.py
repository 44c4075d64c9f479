"""What a gateway tells the controller, twice a second: load, use of keys, and what a rollout learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Observation:
    """One request, as it counts for the variant that its user was assigned to (intention to treat).

    A request that another engine of the variant saved counts with what the caller saw. One that another variant
    answered, or nobody, is an error of the assigned variant and has no times. One that its caller gave up before the
    first byte came tells how long it waited: an answer would have taken longer. After ten seconds it is an error too.
    So is a stream that had begun and had brought nothing for ten seconds when its caller left it. Overridden requests,
    shadow copies, requests that the gateway itself refused (4xx, limits) and streams that the caller left while they
    went on are no observations.

    Attributes:
        unit: the user key, hashed; for a request without one, its own random name.
        keyed: whether there was a user key.
        variant: the assigned variant.
        version: the state's version at the assignment.
        at: when it began, seconds since the epoch.
        error: whether the assigned variant failed to answer it (5xx, broken stream, nobody there, ten seconds of
            silence until the caller left).
        first_token_s: seconds to the first byte of a stream's first event, or until the caller gave that up; None for
            an answer in one piece.
        token_s: seconds for each token after the first; None below two tokens.
        latency_s: seconds to the end of the answer; where the caller gave up, to that: a lower bound.
        retried: another engine of the variant answered it.
        fallback: another variant answered it.
        request: the request's id, by which feedback may name it.
        gave_up: the caller left before the first byte of an answer, or after ten seconds without more of it.
    """

    unit: str
    keyed: bool
    variant: str
    version: int
    at: float
    error: bool
    first_token_s: float | None = None
    token_s: float | None = None
    latency_s: float | None = None
    retried: bool = False
    fallback: bool = False
    request: str = ""
    gave_up: bool = False


@dataclass(frozen=True)
class Feedback:
    """A reported value of a business metric.

    Attributes:
        unit: the user key, hashed, as in :class:`Observation`; empty where ``request`` names it.
        request: the id of the request that it is about, where no user was named.
    """

    metric: str
    value: float
    at: float
    unit: str = ""
    request: str = ""


@dataclass(frozen=True)
class KeyUse:
    """What a key has used on one gateway since the gateway started, and now."""

    requests: int = 0
    tokens: int = 0
    ongoing: int = 0


@dataclass(frozen=True)
class OthersUse:
    """What a gateway is told in turn: key id -> what all others together have let it use.

    Attributes:
        gateways: how many there are, this one included.
    """

    use: Mapping[str, KeyUse]
    gateways: int


@dataclass(frozen=True)
class GatewayReport:
    """The answer to the controller's question; asking takes the observations away.

    Attributes:
        gateway: its name.
        serial: of the table it works by; -1 before the first.
        version: of the state it works by.
        ongoing: engine address -> requests in flight there.
        waiting: variant -> requests that wait for an engine of it.
        requests: variant -> requests begun since the gateway started.
        use: key id -> its use here.
        dropped: observations lost since the start because nobody took them in time.
    """

    gateway: str
    serial: int
    version: int
    port: int
    ongoing: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    use: Mapping[str, KeyUse] = field(default_factory=dict)
    observations: tuple[Observation, ...] = ()
    feedback: tuple[Feedback, ...] = ()
    dropped: int = 0
