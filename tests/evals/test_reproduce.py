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
        ({"backend": "vllm"}, "/m", "--model vllm --model_args pretrained=/m,dtype=auto"),
        (
            {},
            "http://host:8000/v1",
            "local-completions --model_args model=MODEL,base_url=http://host:8000/v1/completions",
        ),
        ({"sample": 500}, "/m", "# every question; Raymill asked 500 of each suite"),
    ],
)
def test_backends_urls_and_samples(more: dict[str, object], model: str, words: str) -> None:
    assert words in stock_command(results(**more) | {"model": {"id": model}})
