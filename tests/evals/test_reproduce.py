"""The stock command asks what was asked; lm-eval's own parser takes it."""

from __future__ import annotations

import shlex

import pytest

from evals.reproduce import stock_command

SETTINGS = {
    "suites": ["arc_challenge", "mmlu", "truthfulqa_mc2"],
    "num_fewshot": {"arc_challenge": 25, "mmlu": 5, "truthfulqa_mc2": 0},
    "batch_size": 8,
    "seed": 7,
    "backend": "transformers",
}


def results(**more: object) -> dict[str, object]:
    return {"settings": SETTINGS | more, "tasks": {}, "model": {"id": "/models/base"}}


def test_one_command_for_each_number_of_worked_examples() -> None:
    from lm_eval.__main__ import HarnessCLI

    lines = stock_command(results(limit=20)).splitlines()
    assert len(lines) == 3
    for line, (suite, shots) in zip(lines, SETTINGS["num_fewshot"].items(), strict=True):  # type: ignore[attr-defined]
        words = shlex.split(line)
        parsed = HarnessCLI()._parser.parse_args(["run", *words[1:]])
        assert (parsed.model, parsed.num_fewshot, str(parsed.batch_size)) == ("hf", shots, "8")
        assert suite in str(parsed.tasks)
        assert parsed.limit == 20
        assert words[words.index("--seed") + 1] == "0,1234,1234,7"


@pytest.mark.parametrize(
    ("more", "model", "words"),
    [
        ({"backend": "vllm"}, {"id": "m", "folder": "/x/m"}, "--model vllm --model_args pretrained=/x/m,dtype=auto"),
        ({}, {"id": "a", "folder": "/x/m", "adapter": "/x/a"}, "pretrained=/x/m,peft=/x/a,dtype=auto"),
        (
            {},
            {"id": "tiny:tuned", "served_name": "tiny", "url": "http://host:8000", "tokenizer": "/x/t"},
            "local-completions --model_args model=tiny,base_url=http://host:8000/v1/completions,tokenizer=/x/t ",
        ),
        (
            {},
            {"id": "Model/pretrain-0123", "fingerprint": "0123"},
            "# MODEL_FOLDER: the files of Model/pretrain-0123",
        ),
        ({}, {"id": "Model/pretrain-0123", "fingerprint": "0123"}, "pretrained=MODEL_FOLDER,dtype=auto"),
        ({"share_prefixes": True}, {"id": "/m"}, "# equal within 1e-4"),
        ({"sample": 500}, {"id": "/m"}, "# every question; Raymill asked 500 of each suite"),
        ({"own_task_files": True}, {"id": "/m"}, " --include_path TASKS_FOLDER"),
    ],
)
def test_adapters_backends_urls_artifacts_and_samples(
    more: dict[str, object], model: dict[str, object], words: str
) -> None:
    assert words in stock_command(results(**more) | {"model": model})


def test_the_shipped_sample_is_not_said_to_be_what_lm_eval_asks() -> None:
    assert "# the official questions; Raymill asked its own" in stock_command(results() | {"benchmarks": "sample"})
    assert "#" not in stock_command(results() | {"benchmarks": "mirror"})
