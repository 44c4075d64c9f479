"""How much each API key may use: requests and tokens per minute, and requests at a time. Pure; the clock is passed in.

Every rate is a leaky bucket used as a meter (ITU-T I.371, annex A): use fills it, it empties at the limit's rate,
and it holds one minute's worth, so a key that was quiet may use a whole minute's worth at once. What other gateways
let through is added to the meter when they tell of it; the meter may then be fuller than it holds, and everybody waits
that off. So over any time T all gateways together let through at most limit x (T + 1 minute), and what the others
could take between two tellings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serving.access.keys import ApiKey, KeyLimits
from serving.gateway.observation import KeyUse

Limit = Literal["requests_per_minute", "tokens_per_minute", "concurrency"]

_SECONDS = 60.0
_ROUNDING = 1e-6
"""Of one request or token: waiting exactly as long as told is enough in spite of binary fractions."""
_CONCURRENCY_RETRY_S = 1.0
"""Nobody knows when an answer in flight ends."""


@dataclass(frozen=True)
class Admitted:
    """A request that may go on; hand it back to :meth:`UsageLimiter.finish`.

    Attributes:
        counted: whether its key has limits; without any, nothing is kept about it.
    """

    key_id: str
    tokens_reserved: int
    counted: bool


@dataclass(frozen=True)
class Refused:
    """A request that must wait.

    Attributes:
        retry_after_s: when the same request would be let through if nobody used the key until then.
        which: the limit that takes longest.
        limit: its value.
    """

    retry_after_s: float
    which: Limit
    limit: int

    @property
    def retry_after_header(self) -> str:
        """``Retry-After`` in whole seconds, rounded up (RFC 9110, 10.2.3)."""
        return str(max(1, math.ceil(self.retry_after_s)))


@dataclass
class _Meter:
    """What was used and has not leaked away yet, at ``at``."""

    filled: float = 0.0
    at: float = -math.inf

    def leak(self, limit: int | None, now: float) -> None:
        """Forget what the limit's rate allows for the time that passed; without a limit, everything."""
        if now > self.at:
            passed = now - self.at
            self.filled = 0.0 if limit is None else max(0.0, self.filled - passed * limit / _SECONDS)
            self.at = now

    def wait_s(self, limit: int, cost: float) -> float:
        """Seconds until ``cost`` fits. One that never fits waits for an empty meter, and then overfills it."""
        excess = self.filled + min(cost, limit) - limit
        return 0.0 if excess <= _ROUNDING else excess * _SECONDS / limit


@dataclass
class _Account:
    """What one key uses here, and what is known of its use elsewhere."""

    limits: KeyLimits
    requests: _Meter = field(default_factory=_Meter)
    tokens: _Meter = field(default_factory=_Meter)
    requests_begun: int = 0
    tokens_used: int = 0
    ongoing: int = 0

    def leak(self, now: float) -> None:
        self.requests.leak(self.limits.requests_per_minute, now)
        self.tokens.leak(self.limits.tokens_per_minute, now)

    def add(self, requests: int, tokens: int) -> None:
        self.requests.filled = max(0.0, self.requests.filled + requests)
        self.tokens.filled = max(0.0, self.tokens.filled + tokens)


class UsageLimiter:
    """The meters of one gateway. Not safe for threads: call it from one event loop.

    ``now`` is any clock that does not go back, in seconds, always the same one.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._others: dict[str, KeyUse] = {}
        self._heard = False

    def know(self, keys: Iterable[ApiKey], now: float) -> None:
        """Take over the keys of a new table; changed limits hold from now on."""
        limits = {key.id: key.limits for key in keys if key.revoked_at is None and key.limits != KeyLimits()}
        for key_id, each in limits.items():
            self._account(key_id, each, now)
        for key_id in self._accounts.keys() - limits.keys():
            if not self._accounts[key_id].ongoing:
                del self._accounts[key_id]

    def try_begin(self, key: ApiKey, now: float, tokens_reserved: int = 0) -> Admitted | Refused:
        """Begin a request that will use at most about ``tokens_reserved`` tokens; a refused one costs nothing."""
        if key.limits == KeyLimits():
            return Admitted(key.id, 0, counted=False)
        limits, account = key.limits, self._account(key.id, key.limits, now)
        waits: list[tuple[float, Limit, int]] = []
        if limits.requests_per_minute:
            wait = account.requests.wait_s(limits.requests_per_minute, 1)
            waits.append((wait, "requests_per_minute", limits.requests_per_minute))
        if limits.tokens_per_minute:
            wait = account.tokens.wait_s(limits.tokens_per_minute, tokens_reserved)
            waits.append((wait, "tokens_per_minute", limits.tokens_per_minute))
        if limits.concurrency:
            elsewhere = self._others.get(key.id, KeyUse()).ongoing
            full = account.ongoing + elsewhere >= limits.concurrency
            waits.append((_CONCURRENCY_RETRY_S if full else 0.0, "concurrency", limits.concurrency))
        longest = max(waits)
        if longest[0] > 0:
            return Refused(*longest)
        account.add(1, tokens_reserved)
        account.requests_begun += 1
        account.tokens_used += tokens_reserved
        account.ongoing += 1
        return Admitted(key.id, tokens_reserved, counted=True)

    def finish(self, admitted: Admitted, now: float, tokens_used: int) -> None:
        """End a request, however it ended; what it did not use of its reservation is given back. Call it once."""
        account = self._accounts.get(admitted.key_id)
        if account is None or not admitted.counted:
            return
        account.leak(now)
        account.add(0, tokens_used - admitted.tokens_reserved)
        account.tokens_used += tokens_used - admitted.tokens_reserved
        account.ongoing = max(0, account.ongoing - 1)

    def absorb(self, others_use: Mapping[str, KeyUse], now: float) -> None:
        """Count what all other gateways together have used: totals that grow, as ``serving.access.totals`` gives them.

        The first totals that a gateway hears are history, and only what comes after them counts. Totals that fall (the
        controller began anew) are history again. Keys that are not named keep what was known of them.
        """
        for key_id, use in others_use.items():
            before = self._others.get(key_id, KeyUse() if self._heard else use)
            account = self._accounts.get(key_id)
            if account and use.requests >= before.requests:
                account.leak(now)
                account.add(use.requests - before.requests, use.tokens - before.tokens)
        self._others.update(others_use)
        self._heard = self._heard or bool(others_use)

    def use(self) -> dict[str, KeyUse]:
        """Key id -> its use on this gateway since the start, reservations in flight included, for the others."""
        return {
            key_id: KeyUse(account.requests_begun, account.tokens_used, account.ongoing)
            for key_id, account in self._accounts.items()
        }

    def _account(self, key_id: str, limits: KeyLimits, now: float) -> _Account:
        account = self._accounts.setdefault(key_id, _Account(limits))
        account.leak(now)
        account.limits = limits
        return account
