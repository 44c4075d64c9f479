"""One request's life: what is known of it, from its arrival to what is written down about it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Literal

from aiohttp import web

from serving.access.keys import ApiKey
from serving.access.rate import Admitted
from serving.gateway import wire
from serving.gateway.body import BodyBudget, HeldBody
from serving.gateway.observation import Observation
from serving.gateway.observe import unit_of
from serving.gateway.streams import EventStream
from serving.gateway.table import RouteTable

How = Literal["sticky", "random", "override", "fallback"]

CLIENT_LEFT = 499
"""Written down for an answer that its caller did not wait for."""

GAVE_UP_IS_ERROR_S = 10.0
"""Whoever leaves after so long without a first byte, or another event, was failed, not merely impatient: people keep
their attention on what does not answer for about ten seconds (Nielsen, Usability Engineering, 1993, chapter 5). Those
who left earlier tell only how long it took at least."""


class Exchange:
    """One request on its way.

    Attributes:
        began: when the whole request was there (``perf_counter``); ``at`` is the same since the epoch.
        assigned: the variant that its user belongs to, or that an override names; empty before.
        variant: the variant that answers, which a fallback changes.
        how: how the variant was chosen.
        status: of the answer; :data:`CLIENT_LEFT` until there is one.
        asked: whether an engine was asked or waited for: earlier refusals say nothing about a variant.
        tries, late_tries: engines asked so far, and those of them that did not begin in time.
        broken: whether a stream ended with an error event.
        usage: (prompt, completion) tokens as the engine counted them.
        stream, response: of an answer that is passed on event by event.
        sent_at: when its last events had been sent (``perf_counter``), so that the next are the engine's to bring; None
            while some are being sent to a caller that may be slow.
        streamed: whether the caller asked for a stream.
        prompt_tokens: about how long its prompt is.
        show_usage: whether the caller asked for a stream's usage event.
    """

    def __init__(self, request: web.BaseRequest, path: str, budget: BodyBudget) -> None:
        self.request, self.path = request, path
        self.began, self.at = time.perf_counter(), time.time()
        self.id = wire.request_id(request.headers.get("X-Request-Id"), "") or os.urandom(16).hex()
        self.body = HeldBody(budget)
        self.key: ApiKey | None = None
        self.user: str | None = None
        self.assigned = self.variant = ""
        self.how: How = "random"
        self.version = 0
        self.status = CLIENT_LEFT
        self.asked = self.broken = self.retried = self.has_place = False
        self.admitted: Admitted | None = None
        self.usage: tuple[int, int] | None = None
        self.stream: EventStream | None = None
        self.response: web.StreamResponse | None = None
        self.sent_at: float | None = None
        self.show_usage = self.streamed = False
        self.tries = self.late_tries = self.prompt_tokens = 0

    def arrived(self) -> None:
        """The whole request is here: its answer is waited for from now on."""
        self.began, self.at = time.perf_counter(), time.time()

    def assign(self, variant: str, how: How, table: RouteTable) -> None:
        """Give it to a variant."""
        self.assigned = self.variant = variant
        self.how, self.version = how, table.version

    def headers(self) -> dict[str, str]:
        """What the answer says of itself."""
        if not self.variant:
            return {"X-Request-Id": self.id}
        return {"X-Request-Id": self.id, "X-Raymill-Variant": self.variant, "X-Raymill-Assignment": self.how}

    def settle(self) -> None:
        """Its end: a caller that hangs up as soon as it has the last event had its answer."""
        if self.stream is not None:
            self.usage = self.stream.usage or self.usage
            if self.status == CLIENT_LEFT and self.stream.finished:
                self.status = 200

    @property
    def failed(self) -> bool:
        """Whether the caller did not get what it asked for, through no fault of its own."""
        return self.status >= 500 or self.broken

    def tokens_used(self) -> int:
        """What its key has used: as counted by the engine, else what can be known of it."""
        if self.usage is not None:
            return sum(self.usage)
        if self.admitted is None or (self.status >= 400 and self.status != CLIENT_LEFT):
            return 0
        reserved = self.admitted.tokens_reserved
        if self.stream is not None:
            return min(self.prompt_tokens + self.stream.events, reserved)
        if self.status == CLIENT_LEFT and not self.has_place:
            return 0  # no engine has seen it
        return min(self.prompt_tokens, reserved) if self.streamed else reserved

    def observation(self, table: RouteTable, ended: float) -> Observation | None:
        """What a rollout learns from it, if anything (see :class:`Observation`).

        Args:
            ended: on ``perf_counter``.
        """
        if not table.rollout or self.assigned not in table.rollout or not self.asked:
            return None
        if self.how == "override":
            return None
        gave_up, waited = self.status == CLIENT_LEFT, ended - self.began
        too_long = gave_up and self._silence(ended) >= GAVE_UP_IS_ERROR_S
        if gave_up and self.stream is not None and not too_long:
            return None
        fallback = self.variant != self.assigned
        error = self.failed or fallback or too_long
        refused = self.status >= 400 or (self.stream is not None and self.stream.error is not None)
        timed = not error and not refused
        stream = self.stream if timed else None
        begun = self.stream if timed or too_long else None
        first_token_s = begun.first_at - self.began if begun is not None and begun.first_at else None
        if fallback:
            first_token_s = None
        elif gave_up and self.streamed and first_token_s is None:
            first_token_s = waited
        return Observation(
            unit=unit_of(table.experiment, self.user),
            keyed=self.user is not None,
            variant=self.assigned,
            version=self.version,
            at=self.at,
            error=error,
            first_token_s=first_token_s,
            token_s=stream.seconds_per_token if stream is not None else None,
            latency_s=waited if timed or (gave_up and not fallback) else None,
            retried=self.retried,
            fallback=fallback,
            request=self.id,
            gave_up=gave_up,
        )

    def _silence(self, ended: float) -> float:
        """Seconds that the caller had waited for the engine in the end."""
        if self.stream is None:
            return ended - self.began
        return ended - self.sent_at if self.sent_at is not None else 0.0


def error_response(error: wire.ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error in OpenAI's shape."""
    marks = {**(headers or {}), **error.headers, "Content-Type": wire.JSON}
    return web.Response(status=error.status, body=error.body(), headers=marks)
