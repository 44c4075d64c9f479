"""The OpenAI API at its edges: errors in its shape, and what a request says about its model and its user."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

USER_HEADERS = ("X-User-Id", "X-Session-Id")
USER_FIELDS = ("user", "session")
OWN_FIELDS = ("session",)
"""Fields that mean something to the gateway only and are not passed on."""

MAX_KEY_LENGTH = 256
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


class ApiError(Exception):
    """An answer other than success, in OpenAI's shape.

    Args:
        status: the HTTP status.
        message: what is wrong, for the caller.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``.
        param: the field that it concerns.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def unavailable(message: str) -> ApiError:
    """503: nobody can answer now; a client may try again."""
    return ApiError(503, message, kind="server_error", code="service_unavailable", retry_after=1)


def parse_body(raw: bytes) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        ApiError: 400, it is not one.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return body


def check_model(body: Mapping[str, Any], public: str) -> None:
    """Accept the public name, or none.

    Raises:
        ApiError: 404 for any other name, as OpenAI answers.
    """
    asked = body.get("model", public)
    if asked != public:
        message = f"The model `{str(asked)[:100]}` does not exist; this endpoint serves `{public}`."
        raise ApiError(404, message, code="model_not_found", param="model")


def user_key(headers: Mapping[str, str], body: Mapping[str, Any]) -> str | None:
    """The user or session that a request belongs to: a header first, then a field of the body.

    Raises:
        ApiError: 400, the key is too long.
    """
    candidates = [headers.get(name) for name in USER_HEADERS] + [body.get(name) for name in USER_FIELDS]
    key = next((each for each in candidates if isinstance(each, str) and each), None)
    if key is not None and len(key) > MAX_KEY_LENGTH:
        raise ApiError(400, f"a user key may have at most {MAX_KEY_LENGTH} characters", param="user")
    return key


def request_id(given: str | None, fresh: str) -> str:
    """The caller's request id where it is a plain one, otherwise a fresh one."""
    return given if given and _REQUEST_ID.match(given) else fresh


def engine_body(body: Mapping[str, Any], model: str) -> bytes:
    """The request as the engine gets it: under its own model name, without the gateway's fields."""
    kept = {name: value for name, value in body.items() if name not in OWN_FIELDS}
    return json.dumps({**kept, "model": model}).encode()


def error_event(message: str) -> bytes:
    """A server-sent event that ends a stream which cannot be finished; OpenAI's clients raise it."""
    return b"data: " + ApiError(500, message, kind="server_error", code="stream_interrupted").body() + b"\n\n"
