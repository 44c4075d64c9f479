"""What every gateway lets each key use, summed for the others. Pure; the controller keeps one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from serving.gateway.observation import KeyUse, OthersUse


class UseTotals:
    """Totals that only grow, although gateways count from 0 when they begin anew."""

    def __init__(self) -> None:
        self._counted: dict[str, dict[str, KeyUse]] = {}
        self._before: dict[str, dict[str, KeyUse]] = {}

    def report(self, gateway: str, use: Mapping[str, KeyUse]) -> None:
        """Take a gateway's own counts (``GatewayReport.use``)."""
        last = self._counted.get(gateway, {})
        for key_id, was in last.items():
            if use.get(key_id, KeyUse()).requests < was.requests:  # it was replaced, or the key's account was
                kept = self._before.setdefault(gateway, {})
                kept[key_id] = _plus(kept.get(key_id, KeyUse()), replace(was, ongoing=0))
        self._counted[gateway] = dict(use)

    def gone(self, gateway: str) -> None:
        """A gateway that does not come back, or not soon: what it used stays used, nothing is in flight there."""
        self.report(gateway, {})

    def others(self, gateway: str, gateways: Collection[str]) -> OthersUse | None:
        """What all gateways but one have used; None while one of ``gateways`` has not been heard yet.

        Half a sum would look like a fall, and the whole one after it like use.
        """
        if not self._counted.keys() >= {each for each in gateways if each != gateway}:
            return None
        totals: defaultdict[str, KeyUse] = defaultdict(KeyUse)
        for counts in (self._counted, self._before):
            for each, use in counts.items():
                if each != gateway:
                    for key_id, amount in use.items():
                        totals[key_id] = _plus(totals[key_id], amount)
        return OthersUse(dict(totals), len({*gateways, gateway}))


def _plus(a: KeyUse, b: KeyUse) -> KeyUse:
    return KeyUse(a.requests + b.requests, a.tokens + b.tokens, a.ongoing + b.ongoing)
