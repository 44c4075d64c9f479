"""The stock lm-eval command that asks the same of the same model, from what an evaluation recorded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def stock_command(results: Mapping[str, Any]) -> str:
    """One command for each number of worked examples (lm-eval takes one for all tasks), a line each.

    A random sample has no short equivalent: the commands then say so and ask every question.
    """
    settings, model = results["settings"], results.get("model", {})
    shots = settings.get("num_fewshot") or {}
    groups: dict[int, list[str]] = {}
    for suite in settings.get("suites", results["tasks"]):
        groups.setdefault(int(shots.get(suite) or 0), []).append(suite)
    lines = []
    for count, suites in groups.items():
        words = ["lm_eval", *_model(str(model.get("id", "MODEL")), settings), "--tasks", ",".join(suites)]
        words += ["--num_fewshot", str(count), "--batch_size", str(settings.get("batch_size", 1))]
        words += ["--seed", f"0,1234,1234,{settings.get('seed', 1234)}"]
        if settings.get("limit"):
            words += ["--limit", str(settings["limit"])]
        lines.append(shlex.join(words))
    if settings.get("sample"):
        lines.insert(0, f"# every question; Raymill asked {settings['sample']} of each suite, drawn with the seed")
    return "\n".join(lines)


def _model(name: str, settings: Mapping[str, Any]) -> list[str]:
    if name.startswith(("http://", "https://")):
        address = name.rstrip("/").removesuffix("/v1") + "/v1/completions"
        return ["--model", "local-completions", "--model_args", f"model=MODEL,base_url={address}"]
    backend = {"vllm": "vllm"}.get(str(settings.get("backend", "")), "hf")
    return ["--model", backend, "--model_args", f"pretrained={name},dtype=auto"]
