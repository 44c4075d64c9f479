"""Who may come in, and with what: keys, scopes, models, and the bounds of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import hdrs

from serving.access.keys import ApiKey
from serving.access.rate import Admitted, Refused, Uncertain, UsageLimiter
from serving.config import LimitsConfig
from serving.gateway.wire import CHAT, COMPLETIONS, ApiError

TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
CHOICE_FIELDS = ("n", "best_of")
COMPLETION_TOKENS = 16
"""What the completions endpoint generates where the caller does not say."""

CHAT_TOKENS = 256
"""Reserved for a chat answer of unlimited length; what it really took is settled at its end."""

BYTES_PER_TOKEN = 4
PATIENCE_S, ASK_AGAIN_S = 2.0, 0.05
"""How long a request waits for word from the other gateways, which comes twice a second."""
LARGEST_COUNT = 1 << 31

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="raymill"'}
_PROBLEMS = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrency": "requests at a time",
}


def bearer(headers: Mapping[str, str]) -> str | None:
    """The secret in ``Authorization: Bearer`` (RFC 6750, 2.1), or None."""
    scheme, _, secret = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    secret = secret.strip()
    return secret if secret and scheme.lower() == "bearer" else None


def unauthorized(message: str) -> ApiError:
    """401."""
    return ApiError(401, message, code="invalid_api_key", headers=CHALLENGE)


def forbidden(message: str, code: str = "insufficient_scope") -> ApiError:
    """403."""
    return ApiError(403, message, kind="permission_error", code=code)


def require_scope(key: ApiKey | None, given: bool, scope: Literal["call", "admin"]) -> None:
    """Hold a caller to a scope; admin includes call.

    Args:
        given: whether there was a key at all, good or not.

    Raises:
        ApiError: 401 without a good key, 403 with one of another scope.
    """
    if key is None:
        raise unauthorized("this API key is unknown or revoked" if given else "an API key is needed: `Bearer KEY`")
    if scope not in key.scopes and "admin" not in key.scopes:
        raise forbidden(f"key {key.id} has no scope `{scope}`")


def check_key_model(key: ApiKey | None, model: str) -> None:
    """Hold a key to its models.

    Raises:
        ApiError: 403.
    """
    if key is not None and key.models and model not in key.models:
        raise forbidden(f"key {key.id} may not use the model `{model}`", code="model_not_allowed")


@dataclass(frozen=True)
class Demand:
    """What a request will take at most, about.

    Attributes:
        prompt_tokens: an estimate of the prompt.
        tokens: an estimate of prompt and answer together, to reserve.
    """

    prompt_tokens: int
    tokens: int


def check_asked(body: Mapping[str, Any], limits: LimitsConfig) -> None:
    """Hold what a caller asks for to the limits; what it leaves open, :func:`serving.gateway.prompts.with_sampling`
    fills within them.

    Raises:
        ApiError: 400, it asks for too much, or not for a whole number.
    """
    if _choices(body) > limits.max_choices:
        message = f"at most {limits.max_choices} answers may be asked for (n, best_of)"
        raise ApiError(400, message, code="too_many_choices", param="n")
    tokens, most = _tokens(body), limits.max_tokens
    if most is not None and tokens is not None and tokens > most:
        message = f"at most {most} tokens may be asked for in one answer"
        raise ApiError(400, message, code="max_tokens_too_large", param="max_tokens")


def demand_of(body: Mapping[str, Any], path: str, size: int) -> Demand:
    """What a request takes, its variant's defaults included.

    Args:
        size: bytes of the body.
    """
    tokens = _tokens(body)
    answer = max(0, tokens) if tokens is not None else {CHAT: CHAT_TOKENS, COMPLETIONS: COMPLETION_TOKENS}.get(path, 0)
    prompt = size // BYTES_PER_TOKEN
    return Demand(prompt, prompt + answer * _choices(body))


def whole(value: Any) -> int | None:
    """A count, or None where it is none; JSON does not tell 1 from 1.0 (RFC 8259, 6)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1:
        return None
    return int(value)


def _choices(body: Mapping[str, Any]) -> int:
    return max(1, *(_count(body, name) or 1 for name in CHOICE_FIELDS))


def _tokens(body: Mapping[str, Any]) -> int | None:
    return max((asked for name in TOKEN_FIELDS if (asked := _count(body, name)) is not None), default=None)


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    count = whole(value)
    if count is None or abs(count) > LARGEST_COUNT:
        raise ApiError(400, f"{name} must be a whole number", code="invalid_type", param=name)
    return count


async def begin(limiter: UsageLimiter, key: ApiKey, tokens: int, clock: Callable[[], float]) -> Admitted:
    """Count a request against its key; end it with ``limiter.finish``.

    One that only what other gateways let through can decide about waits until this gateway was told.

    Raises:
        ApiError: 429, with the time after which to try again.
    """
    until = clock() + PATIENCE_S
    while isinstance(admitted := limiter.try_begin(key, now := clock(), tokens, patient=now < until), Uncertain):
        await asyncio.sleep(ASK_AGAIN_S)
    if isinstance(admitted, Refused):
        raise ApiError(
            429,
            f"key {key.id} is over its limit of {admitted.limit} {_PROBLEMS[admitted.which]}",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": admitted.retry_after_header},
        )
    return admitted
