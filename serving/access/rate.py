"""How much each API key may use: requests and tokens per minute, and requests at a time. Pure; the clock is passed in.

Every rate is a leaky bucket used as a meter (ITU-T I.371, annex A): use fills it, it empties at the limit's rate,
and it holds one minute's worth, so a key that was quiet may use a whole minute's worth at once. What other gateways
let through is added to the meter when they tell of it. Between two tellings a gateway takes at once only its share of
what was left; a request beyond that is uncertain, and may wait for the next telling (at most about a second). So over
any time T all gateways together let through at most limit x (T + 1 minute) and one request for each of them. Where
somebody took too much, the meter is fuller than it holds, and everybody waits that off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, overload

from serving.access.keys import ApiKey, KeyLimits
from serving.gateway.observation import KeyUse, OthersUse

Limit = Literal["requests_per_minute", "tokens_per_minute", "concurrency"]

_SECONDS = 60.0
_ROUNDING = 1e-6
"""Of one request or token: waiting exactly as long as told is enough in spite of binary fractions."""
_SILENCE_S = 3.0
"""After so long without a telling (the controller is dead) nobody waits for one."""
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


@dataclass(frozen=True)
class Uncertain:
    """A request that fits as far as is known here, but others may have taken the same: ask again after a telling."""


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

    def is_fair(self, limit: int, cost: float, untold: float, gateways: int) -> bool:
        """Whether every gateway can take as much without hearing of the others.

        Args:
            untold: what this gateway has let through that the others may not know of. Where that is nothing, one
                request is fair, so that the last of what is left is not lost between them.
        """
        left = limit - max(0.0, self.filled - max(0.0, untold))
        return untold <= 0 or untold + cost <= left / gateways


@dataclass
class _Account:
    """What one key uses here, and what is known of its use elsewhere."""

    limits: KeyLimits
    requests: _Meter = field(default_factory=_Meter)
    tokens: _Meter = field(default_factory=_Meter)
    requests_begun: int = 0
    tokens_used: int = 0
    ongoing: int = 0
    told: tuple[int, int] = (0, 0)
    known: tuple[int, int] = (0, 0)

    def tell(self) -> None:
        """The others hear of what was used until now; what they were to hear last time they know by now."""
        self.known, self.told = self.told, (self.requests_begun, self.tokens_used)

    def is_fair(self, tokens: int, gateways: int) -> bool:
        """Whether a request is within this gateway's share of what was left."""
        per_minute, budget = self.limits.requests_per_minute, self.limits.tokens_per_minute
        requests_untold, tokens_untold = self.requests_begun - self.known[0], self.tokens_used - self.known[1]
        return (per_minute is None or self.requests.is_fair(per_minute, 1, requests_untold, gateways)) and (
            budget is None or self.tokens.is_fair(budget, tokens, tokens_untold, gateways)
        )

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
        self._gateways = 1
        self._told_at = -math.inf

    def know(self, keys: Iterable[ApiKey], now: float) -> None:
        """Take over the keys of a new table; changed limits hold from now on."""
        limits = {key.id: key.limits for key in keys if key.revoked_at is None and key.limits != KeyLimits()}
        for key_id, each in limits.items():
            self._account(key_id, each, now)
        for key_id in self._accounts.keys() - limits.keys():
            if not self._accounts[key_id].ongoing:
                del self._accounts[key_id]

    @overload
    def try_begin(self, key: ApiKey, now: float, tokens_reserved: int = 0) -> Admitted | Refused: ...

    @overload
    def try_begin(
        self, key: ApiKey, now: float, tokens_reserved: int = 0, *, patient: bool
    ) -> Admitted | Refused | Uncertain: ...

    def try_begin(
        self, key: ApiKey, now: float, tokens_reserved: int = 0, *, patient: bool = False
    ) -> Admitted | Refused | Uncertain:
        """Begin a request that will use at most about ``tokens_reserved`` tokens; only an admitted one costs anything.

        Args:
            patient: whether the request can be asked for again after the next telling; otherwise what this gateway
                knows decides.
        """
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
        hears = self._gateways > 1 and now - self._told_at < _SILENCE_S
        if patient and hears and not account.is_fair(tokens_reserved, self._gateways):
            return Uncertain()
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

    def absorb(self, others: OthersUse, now: float) -> None:
        """Be told of the others: totals that grow, as ``serving.access.totals`` gives them.

        The first totals that a gateway hears are history, and only what comes after them counts. Totals that fall (the
        controller began anew) are history again. Keys that are not named keep what was known of them.
        """
        heard = self._told_at > -math.inf
        for key_id, use in others.use.items():
            before = self._others.get(key_id, KeyUse() if heard else use)
            account = self._accounts.get(key_id)
            if account and use.requests >= before.requests:
                account.leak(now)
                account.add(use.requests - before.requests, use.tokens - before.tokens)
        for account in self._accounts.values():
            account.tell()
        self._others.update(others.use)
        self._gateways, self._told_at = others.gateways, now

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
