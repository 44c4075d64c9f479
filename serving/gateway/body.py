"""Reading a request's body: within its size, its time, and the memory that all bodies together may take."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.web_protocol import RequestPayloadError

from serving.config import LimitsConfig
from serving.gateway.wire import ApiError, Unavailable

SMALL_BYTES = 64 << 10
"""Of each body so much is not counted: small requests always find room."""

BUDGET_BODIES = 16
"""Bodies of the largest size that one gateway holds at a time."""


class BodyBudget:
    """The bytes of large bodies that one gateway holds, from their arrival to their answer."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, size: int, limits: LimitsConfig) -> None:
        """Count ``size`` bytes more.

        Raises:
            Unavailable: there is no room.
        """
        if self.held + size > BUDGET_BODIES * limits.max_body_bytes:
            raise Unavailable("too many large requests at once", code="overloaded", retry_after=5)
        self.held += size


class HeldBody:
    """One request's body, with the part of the budget that it holds."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._counted = 0

    async def read(self, request: web.BaseRequest, limits: LimitsConfig) -> bytes | bytearray:
        """The whole body, decompressed where it was compressed.

        Raises:
            ApiError: 413 too large, 408 too slow, 400 broken, 417 an unknown expectation.
            Unavailable: there is no room.
        """
        most = limits.max_body_bytes
        length = request.content_length
        if length is not None and length > most:
            raise too_large(most)
        if hdrs.EXPECT in request.headers:
            await _say_continue(request)
        payload = request.content
        body = bytearray()
        try:
            if payload.is_eof() and payload.total_bytes <= SMALL_BYTES:  # most are here already
                return payload.read_nowait()
            async with asyncio.timeout(limits.body_seconds):
                while piece := await payload.readany():
                    body += piece
                    if len(body) > most:
                        raise too_large(most)
                    self._hold(len(body) - SMALL_BYTES, limits)
        except TimeoutError:
            message = f"the body did not come within {limits.body_seconds:g} s"
            raise ApiError(408, message, code="request_timeout", headers={"Connection": "close"}) from None
        except (RequestPayloadError, aiohttp.ClientPayloadError, aiohttp.http.HttpProcessingError) as error:
            raise broken(str(error)) from None
        return body

    def _hold(self, size: int, limits: LimitsConfig) -> None:
        if size > self._counted:
            self._budget.take(size - self._counted, limits)
            self._counted = size

    def release(self) -> None:
        """Give back what it holds of the budget. Harmless to repeat."""
        self._budget.held -= self._counted
        self._counted = 0


def too_large(most: int) -> ApiError:
    """413."""
    message = f"the body is over {most} bytes"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def broken(reason: str) -> ApiError:
    """400: the body breaks HTTP's rules."""
    message = f"the body could not be read: {reason[:200]}"
    return ApiError(400, message, code="invalid_body", headers={"Connection": "close"})


async def _say_continue(request: web.BaseRequest) -> None:
    """Answer ``Expect: 100-continue`` (RFC 9110, 10.1.1), once it is known that the body is wanted."""
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise ApiError(417, "the only known expectation is 100-continue", code="expectation_failed")
    if request.version >= HttpVersion11 and not request.content.is_eof():
        writer = request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0
