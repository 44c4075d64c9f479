"""The public surface in OpenAPI 3.1, kept by hand: what callers may send and what they get.

Fields that vLLM takes and that are not named here pass through; the engine checks them.
"""

from __future__ import annotations

from typing import Any

from serving.config import LimitsConfig
from serving.gateway.feedback import LARGEST_VALUE, METRIC_NAME
from serving.gateway.table import RouteTable
from serving.gateway.wire import MAX_KEY_LENGTH

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
USER: Schema = {"type": "string", "maxLength": MAX_KEY_LENGTH}
TOKEN_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
OBJECT: Schema = {"type": "object"}


def description(table: RouteTable | None) -> Schema:
    """The document; model name, limits and the need for keys are those in force."""
    limits = table.limits if table else LimitsConfig()
    bearer: Schema = {"bearer": []}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Raymill",
            "version": "1",
            "description": "OpenAI's API in front of several variants of a model that share the traffic. Unknown "
            "routes answer 404 and other methods 405, in the same error shape.",
        },
        "security": [bearer] if table and table.require_keys else [{}, bearer],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "an API key"}},
            "schemas": _schemas(limits, table.model if table else "model"),
        },
    }


def request_schemas(limits: LimitsConfig) -> dict[str, Schema]:
    """Path -> the schema of its request body, without ``model``; self-contained."""
    return {
        "/v1/completions": _body({"prompt": _prompt()}, ("prompt",), _generation(limits)),
        "/v1/chat/completions": _body({"messages": _messages()}, ("messages",), _generation(limits)),
        "/v1/embeddings": _body({"input": _prompt(), "encoding_format": {"enum": ["float", "base64"]}}, ("input",), {}),
    }


def _body(own: Schema, required: tuple[str, ...], more: Schema) -> Schema:
    user = {**USER, "type": ["string", "null"]}
    shared = {"user": user, "session": {**user, "description": "as user, for sessions; not passed on"}}
    return {"type": "object", "required": list(required), "properties": {**own, **more, **shared}}


def _prompt() -> Schema:
    texts = {"type": "array", "items": TEXT, "minItems": 1}
    return {"anyOf": [TEXT, texts, TOKEN_IDS, {"type": "array", "items": TOKEN_IDS, "minItems": 1}]}


def _messages() -> Schema:
    parts = {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {"type": TEXT}}}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [TEXT, parts, {"type": "null"}]},
        },
    }
    return {"type": "array", "items": message, "minItems": 1}


def _generation(limits: LimitsConfig) -> Schema:
    tokens: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": limits.max_tokens or 1 << 20}
    choices: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": limits.max_choices}
    return {
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "n": choices,
        "best_of": choices,
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"], "minimum": -(1 << 62), "maximum": 1 << 62},
        "stop": {"anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "anyOf": [{"type": "object", "properties": {"include_usage": {"type": "boolean"}}}, {"type": "null"}]
        },
    }


def _schemas(limits: LimitsConfig, model: str) -> dict[str, Schema]:
    names = {"/v1/completions": "Completion", "/v1/chat/completions": "Chat", "/v1/embeddings": "Embedding"}
    bodies = {names[path]: schema for path, schema in request_schemas(limits).items()}
    for schema in bodies.values():
        schema["properties"]["model"] = {"const": model}
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {"message": TEXT, "type": TEXT, "param": {}, "code": {}},
    }
    one_of = [{"required": ["user"]}, {"required": ["request_id"]}]
    return {
        **{f"{name}Request": schema for name, schema in bodies.items()},
        "Answer": {"type": "object", "required": ["choices"], "properties": {"choices": {"type": "array"}}},
        "Embeddings": {"type": "object", "required": ["data"], "properties": {"data": {"type": "array"}}},
        "Model": {
            "type": "object",
            "required": ["id", "object", "created", "owned_by"],
            "properties": {"id": TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": TEXT},
        },
        "FeedbackRequest": {
            "type": "object",
            "required": ["metric", "value"],
            "oneOf": one_of,
            "properties": {
                "metric": {"type": "string", "pattern": METRIC_NAME},
                "value": {
                    "anyOf": [
                        {"type": "number", "minimum": -LARGEST_VALUE, "maximum": LARGEST_VALUE},
                        {"type": "boolean"},
                    ]
                },
                "user": {**USER, "minLength": 1},
                "request_id": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
            },
        },
        "WeightsRequest": {
            "type": "object",
            "required": ["weights"],
            "properties": {
                "weights": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
                "reason": {"type": "string", "maxLength": 1000},
            },
        },
        "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
    }


def _reference(name: str) -> Schema:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _answer(what: str, schema: Schema, *, stream: bool = False, marks: bool = False) -> Schema:
    content: Schema = {"application/json": schema}
    if stream:
        content["text/event-stream"] = {"schema": {"description": "server-sent events; the last one is [DONE]"}}
    answer: Schema = {"description": what, "content": content}
    if marks:
        answer["headers"] = {
            "X-Request-Id": {"schema": TEXT},
            "X-Raymill-Variant": {"schema": TEXT, "description": "the variant that answered"},
            "X-Raymill-Assignment": {"schema": {"enum": ["sticky", "random", "override", "fallback"]}},
        }
    return answer


def _operation(name: str, summary: str, success: Schema, errors: str, **more: Any) -> Schema:
    problems = {status: _answer(_PROBLEMS[status], _reference("Error")) for status in errors.split()}
    return {"operationId": name, "summary": summary, **more, "responses": {"200": success, **problems}}


_PROBLEMS = {
    "400": "the request is not valid",
    "401": "an API key is needed, or this one is unknown or revoked",
    "403": "the key may not do this",
    "404": "no such model or variant",
    "408": "the request came too slowly",
    "413": "the body is too large",
    "417": "an unknown expectation",
    "429": "the key is over a limit; Retry-After says for how long",
    "500": "the engine failed",
    "503": "nobody can answer now; Retry-After says when to try again",
    "504": "the answer took too long",
}
_GENERATION = "400 401 403 404 408 413 417 429 500 503 504"


def _parameter(name: str, what: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": what, "schema": schema}


def _generating(name: str, summary: str, body: str, answer: str, *, stream: bool) -> Schema:
    parameters = [
        _parameter("X-User-Id", "the user: always gets the same variant (before `user` in the body)", USER),
        _parameter("X-Session-Id", "the same for a session, where no user is named", USER),
        _parameter("X-Request-Id", "comes back in the answer where it is a plain one", TEXT),
        _parameter("X-Raymill-Override", "the variant to ask, for keys of scope admin; not counted", TEXT),
    ]
    return {
        "post": _operation(
            name,
            summary,
            _answer("the engine's answer", _reference(answer), stream=stream, marks=True),
            _GENERATION,
            parameters=parameters,
            requestBody={"required": True, "content": {"application/json": _reference(body)}},
        )
    }


def _get(name: str, summary: str, success: Schema, errors: str = "", **more: Any) -> Schema:
    return {"get": _operation(name, summary, success, errors, **more)}


def _paths() -> Schema:
    anything = _answer("what was asked for", {"schema": OBJECT})
    open_to_all: Schema = {"security": [{}]}
    text = {"description": "Prometheus text format 0.0.4", "content": {"text/plain": {"schema": TEXT}}}
    model = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    with_body = {"required": True, "content": {"application/json": _reference("WeightsRequest")}}
    feedback = {"required": True, "content": {"application/json": _reference("FeedbackRequest")}}
    admin: Schema = {"security": [{"bearer": []}]}
    return {
        "/v1/completions": _generating("complete", "Continue a text", "CompletionRequest", "Answer", stream=True),
        "/v1/chat/completions": _generating("chat", "Answer a chat", "ChatRequest", "Answer", stream=True),
        "/v1/embeddings": _generating("embed", "Embed texts", "EmbeddingRequest", "Embeddings", stream=False),
        "/v1/models": _get("models", "The model", anything, "401 403 503"),
        "/v1/models/{model}": _get(
            "model", "One model", _answer("the model", _reference("Model")), "401 403 404 503", parameters=[model]
        ),
        "/v1/feedback": {
            "post": _operation(
                "feedback",
                "Report a metric's value for a user or a request",
                anything,
                "400 401 403 408 413 417 429 503",
                requestBody=feedback,
            )
        },
        "/health": _get("health", "Whether the process lives", anything, **open_to_all),
        "/ready": _get("ready", "Whether every user would get an answer", anything, "503", **open_to_all),
        "/-/healthz": _get("healthz", "The same, where KubeRay asks", text, "503", **open_to_all),
        "/metrics": _get("metrics", "For Prometheus", text, **open_to_all),
        "/openapi.json": _get("openapi", "This document", anything, **open_to_all),
        "/admin/status": _get("admin_status", "Engines and load", anything, "401 403 503", **admin),
        "/admin/weights": {
            **_get("admin_weights", "The split in force", anything, "401 403 503", **admin),
            "post": _operation(
                "admin_set_weights",
                "Change the split",
                anything,
                "400 401 403 408 413 417 503",
                requestBody=with_body,
                **admin,
            ),
        },
    }
