"""What a vLLM server's metrics page says of its work, and from that, whether it is stuck. Pure: no clock, no HTTP.

``/health`` only says that no error was seen: a server whose device hangs answers it for ever (vLLM 0.29,
``AsyncLLM.check_health``). Work that does not move shows that it hangs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONGOING = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", re.MULTILINE)
_TOKENS = re.compile(r"^vllm:(?:prompt|generation)_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """A look at a server's counters.

    Attributes:
        ongoing: requests that it works on or has queued; None where it does not say.
        tokens: read and written since it started; None where it does not say.
    """

    ongoing: int | None
    tokens: float | None

    @classmethod
    def read(cls, page: str) -> Load:
        """From the metrics page (Prometheus text format)."""
        ongoing, tokens = _ONGOING.findall(page), _TOKENS.findall(page)
        return cls(
            int(sum(map(float, ongoing))) if ongoing else None,
            sum(map(float, tokens)) if tokens else None,
        )


class StallWatch:
    """Whether a server has had work for ``seconds`` and moved none of it.

    Args:
        seconds: longer than the longest prompt takes, as its tokens are counted when all of it was read.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tokens: float | None = None
        self._since: float | None = None

    def stuck(self, load: Load, now: float) -> bool:
        """After one more look; ``now`` on a clock that never goes back."""
        moved = load.tokens is None or load.tokens != self._tokens
        self._tokens = load.tokens
        if moved or not load.ongoing:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= self._seconds
