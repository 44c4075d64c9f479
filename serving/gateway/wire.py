"""The OpenAI API at its edges: errors in its shape, and what a request says about its model and its user."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

USER_HEADERS = ("X-User-Id", "X-Session-Id")
USER_FIELDS = ("user", "session")
OWN_FIELDS = ("session",)
"""Fields that mean something to the gateway only and are not passed on."""

JSON = "application/json"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

MAX_KEY_LENGTH = 256
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_USAGE = re.compile(rb'"usage"\s*:\s*\{[^{}]*')
_ERROR_EVENT = re.compile(rb'^data:[ \t]*(\{[ \t]*"error"[ \t]*:[^\r\n]*)', re.MULTILINE)
_ERROR_CODE = re.compile(r"[45][0-9]{2}")
_COUNT = re.compile(rb'"(prompt_tokens|completion_tokens)"\s*:\s*(\d{1,12})')


class ApiError(Exception):
    """An answer other than success, in OpenAI's shape.

    Args:
        status: the HTTP status.
        message: what is wrong, for the caller.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``.
        param: the field that it concerns.
        retry_after: seconds after which it is worth trying again.
        headers: more headers of the answer.
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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> bytes:
        """The JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class EventError(NamedTuple):
    """What an engine says within a stream, whose own status is 200, in place of its next event."""

    status: int
    body: bytes

    @property
    def is_engines(self) -> bool:
        """Whether it is the engine's failure, not the request's."""
        return self.status >= 500


class Unavailable(ApiError):
    """503: nobody can answer now; a client may try again."""

    def __init__(self, message: str, *, code: str = "service_unavailable", retry_after: int = 1) -> None:
        super().__init__(503, message, kind="server_error", code=code, retry_after=retry_after)


def parse_body(raw: bytes | bytearray) -> dict[str, Any]:
    """The request's JSON object (RFC 8259: UTF-8, no NaN).

    Raises:
        ApiError: 400, it is not one.
    """
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


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
        ApiError: 400, one of them, used or not, is too long or no text.
    """
    keys = [headers.get(name) for name in USER_HEADERS] + [body.get(name) for name in USER_FIELDS]
    for name, key in zip(USER_HEADERS + USER_FIELDS, keys, strict=True):
        if key is not None and not isinstance(key, str):
            raise ApiError(400, f"`{name}` must be a string", param=name)
        if key is not None and len(key) > MAX_KEY_LENGTH:
            raise ApiError(400, f"`{name}` may have at most {MAX_KEY_LENGTH} characters", param=name)
    return next((key for key in keys if key), None)


def request_id(given: str | None, fresh: str) -> str:
    """The caller's request id where it is a plain one, otherwise a fresh one."""
    return given if given and _REQUEST_ID.fullmatch(given) else fresh


def engine_body(body: Mapping[str, Any], model: str) -> bytes:
    """The request as the engine gets it: under its own model name, without the gateway's fields.

    Raises:
        ApiError: 400, it holds a number that JSON cannot (1e999), or is nested too deeply.
    """
    kept = {name: value for name, value in body.items() if name not in OWN_FIELDS}
    kept["model"] = model
    try:
        return json.dumps(kept, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body cannot be passed on: {error}", code="invalid_json") from None


def in_shape(status: int, body: bytes) -> bytes:
    """An engine's error as OpenAI's clients expect it; one that is so already stays as it is."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = body[:1000].decode("utf-8", "replace")
    if isinstance(said, dict) and isinstance(said.get("error"), dict) and "message" in said["error"]:
        return body
    if isinstance(said, dict):
        said = said.get("detail") or said.get("error") or said.get("message") or said
    message = said if isinstance(said, str) else json.dumps(said)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ApiError(status, message or f"the engine answered {status}", kind=kind).body()


def usage(body: bytes) -> tuple[int, int] | None:
    """(prompt, completion) tokens that an answer or its last event says it took; None where it says nothing.

    It looks for the bytes instead of reading the JSON: quotes within strings are escaped, so ``"usage":{`` is a key.
    """
    found = _USAGE.search(body, max(0, len(body) - 2048)) or _USAGE.search(body)
    if found is None:
        return None
    counts = {name: int(number) for name, number in _COUNT.findall(found.group())}
    return (counts.get(b"prompt_tokens", 0), counts.get(b"completion_tokens", 0)) if counts else None


def event_error(events: bytes) -> EventError | None:
    """The error that one of these events is, as vLLM writes one when an answer fails that has begun; its status is 500
    where its code is none.
    """
    # Within a JSON string the quotes would be escaped; nearly all events end here.
    if b'"error"' not in events or (found := _ERROR_EVENT.search(events)) is None:
        return None
    body = found.group(1)
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError):
        return EventError(500, body)
    if not error:
        return None
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return EventError(int(code) if _ERROR_CODE.fullmatch(code) else 500, body)


@functools.lru_cache(maxsize=256)
def renamed(engine_model: str, public: str) -> tuple[bytes, bytes]:
    """The engine's name of the model in an answer, and what takes its place: callers asked for the public one.

    Within a JSON string the quotes would be escaped, so that a generated text is never touched.
    """
    return f'"model":{json.dumps(engine_model)}'.encode(), f'"model":{json.dumps(public)}'.encode()


def error_event(message: str) -> bytes:
    """A server-sent event that ends a stream which cannot be finished; OpenAI's clients raise it."""
    return b"data: " + ApiError(500, message, kind="server_error", code="stream_interrupted").body() + b"\n\n"
