"""The stock lm-eval command that asks the same of the same model, from what an evaluation recorded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

MODEL_FOLDER, TASKS_FOLDER = "MODEL_FOLDER", "TASKS_FOLDER"
"""Stand for folders that results do not name, because they mean the same wherever they lie."""


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
        words = ["lm_eval", *_model(model, settings), "--tasks", ",".join(suites)]
        words += ["--num_fewshot", str(count), "--batch_size", str(settings.get("batch_size", 1))]
        words += ["--seed", f"0,1234,1234,{settings.get('seed', 1234)}"]
        if settings.get("own_task_files"):
            words += ["--include_path", TASKS_FOLDER]
        if settings.get("limit"):
            words += ["--limit", str(settings["limit"])]
        lines.append(shlex.join(words))
    if settings.get("share_prefixes"):
        lines.insert(0, "# equal within 1e-4: Raymill computed what prompts begin with in common once")
    if settings.get("sample"):
        lines.insert(0, f"# every question; Raymill asked {settings['sample']} of each suite, drawn with the seed")
    if settings.get("own_task_files"):
        lines.insert(0, f"# {TASKS_FOLDER}: the folder with the task files of your own")
    if results.get("benchmarks") == "sample":
        lines.insert(0, "# the official questions; Raymill asked its own sample questions in their format")
    if "fingerprint" in model:
        lines.insert(
            0, f"# {MODEL_FOLDER}: the files of {model['id']}, `raymill show` says where; an adapter adds peft=…"
        )
    return "\n".join(lines)


def _model(model: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    if "url" in model:
        address = str(model["url"]).rstrip("/").removesuffix("/v1") + "/v1/completions"
        name = str(model.get("served_name") or model["id"])
        words = f"model={name},base_url={address},tokenizer={model.get('tokenizer') or 'TOKENIZER_FOLDER'}"
        return ["--model", "local-completions", "--model_args", words]
    backend = {"vllm": "vllm"}.get(str(settings.get("backend", "")), "hf")
    # An artifact has no folder that lm-eval could read by its id.
    folder = MODEL_FOLDER if "fingerprint" in model else model.get("folder") or model.get("id", MODEL_FOLDER)
    adapter = f",peft={model['adapter']}" if model.get("adapter") else ""
    return ["--model", backend, "--model_args", f"pretrained={folder}{adapter},dtype=auto"]
