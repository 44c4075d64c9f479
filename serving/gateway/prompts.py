"""Prompt variants: words and sampling defaults that a variant adds to a request. Pure; what the caller set stays."""

from __future__ import annotations

from typing import Any

from serving.config import PromptConfig
from serving.gateway.wire import CHAT, COMPLETIONS

SYSTEM_ROLES = ("system", "developer")


def with_prompt(body: dict[str, Any], path: str, prompt: PromptConfig | None) -> dict[str, Any]:
    """The request as a variant's prompt makes it; the given one is not changed.

    A system message goes first into chats that bring none (or replaces theirs, where the variant says so); a template
    goes around each text prompt of a completion, but not around token ids; sampling defaults fill fields left out.
    """
    if prompt is None or path not in (CHAT, COMPLETIONS):
        return body
    changed = {name: value for name, value in prompt.sampling.items() if body.get(name) is None}
    if path == CHAT and prompt.system is not None and isinstance(body.get("messages"), list):
        changed["messages"] = _with_system(body["messages"], prompt.system, prompt.replace_system)
    if path == COMPLETIONS and prompt.template is not None and "prompt" in body:
        changed["prompt"] = _in_template(body["prompt"], prompt.template)
    return {**body, **changed}


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
