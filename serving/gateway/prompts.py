"""Prompt variants: words and sampling defaults that a variant adds to a request, within the limits. Pure; what the
caller set stays.
"""

from __future__ import annotations

from typing import Any

from serving.config import LimitsConfig, PromptConfig
from serving.gateway.admission import CHOICE_FIELDS, COMPLETION_TOKENS, LARGEST_COUNT, TOKEN_FIELDS, whole
from serving.gateway.wire import CHAT, COMPLETIONS

SYSTEM_ROLES = ("system", "developer")


def with_prompt(body: dict[str, Any], path: str, prompt: PromptConfig | None, limits: LimitsConfig) -> dict[str, Any]:
    """The request as a variant's prompt makes it; the given one is not changed.

    A system message goes first into chats that bring none (or replaces theirs, where the variant says so); a template
    goes around each text prompt of a completion, but not around token ids. What the caller leaves out is filled.
    """
    filled = with_sampling(body, path, prompt, limits)
    if prompt is None or path not in (CHAT, COMPLETIONS):
        return filled
    changed: dict[str, Any] = {}
    if path == CHAT and prompt.system is not None and isinstance(body.get("messages"), list):
        changed["messages"] = _with_system(body["messages"], prompt.system, prompt.replace_system)
    if path == COMPLETIONS and prompt.template is not None and "prompt" in body:
        changed["prompt"] = _in_template(body["prompt"], prompt.template)
    return {**filled, **changed}


def with_sampling(body: dict[str, Any], path: str, prompt: PromptConfig | None, limits: LimitsConfig) -> dict[str, Any]:
    """The request with the fields that the caller leaves out: a variant's defaults, held to the limits, and where
    nobody says how long an answer may be, the limit itself. The given one is not changed.
    """
    if path not in (CHAT, COMPLETIONS):
        return body
    added = _defaults(prompt.sampling, body, limits) if prompt is not None and prompt.sampling else {}
    most = limits.max_tokens
    said = _sets_tokens(body) or _sets_tokens(added)
    if most is not None and not said and (path == CHAT or most < COMPLETION_TOKENS):
        added["max_tokens"] = most
    return {**body, **added} if added else body


def _defaults(sampling: dict[str, Any], body: dict[str, Any], limits: LimitsConfig) -> dict[str, Any]:
    """A variant's defaults that apply. Those beyond a limit are capped: the caller did not ask for them."""
    added = {name: value for name, value in sampling.items() if body.get(name) is None}
    tokens, choices = limits.max_tokens or LARGEST_COUNT, limits.max_choices
    most = dict.fromkeys(TOKEN_FIELDS, tokens) | dict.fromkeys(CHOICE_FIELDS, choices)
    # Two names of one field: the engine would prefer a variant's max_completion_tokens to the caller's max_tokens.
    taken = TOKEN_FIELDS if _sets_tokens(body) else ()
    for name in most.keys() & added.keys():
        count = whole(added.pop(name))
        if count is not None and name not in taken:
            added[name] = min(count, most[name])
    return added


def _sets_tokens(body: dict[str, Any]) -> bool:
    return any(body.get(name) is not None for name in TOKEN_FIELDS)


def _with_system(messages: list[Any], system: str, replace: bool) -> list[Any]:
    others = [each for each in messages if not (isinstance(each, dict) and each.get("role") in SYSTEM_ROLES)]
    if len(others) < len(messages) and not replace:
        return messages
    return [{"role": "system", "content": system}, *others]


def _in_template(given: Any, template: str) -> Any:
    before, _, after = template.partition("{prompt}")
    if isinstance(given, str):
        return before + given + after
    if isinstance(given, list):
        return [before + each + after if isinstance(each, str) else each for each in given]
    return given
