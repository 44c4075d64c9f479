"""What tables say of an artifact: the right figures, and never a sample's score without its name."""

from __future__ import annotations

import pytest

from cluster.artifact import Artifact
from pipelines.headlines import headline


def artifact(kind: str, **fields: object) -> Artifact:
    record = {"kind": kind, "name": "x", "fingerprint": "0" * 64, "identity": {}, "attempt": "a", "files": []}
    return Artifact.model_validate(record | fields)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            artifact(
                "Corpus",
                counts={"documents_in": 2000, "documents": 1500, "bytes": 6_540_000, "validation_documents": 9},
            ),
            "1,500 of 2,000 documents kept, 6.5 MB, 9 for validation",
        ),
        (
            artifact(
                "Model",
                counts={"trained_parameters": 1000, "tokens": 5000},
                metrics={"validation.perplexity": 131.71},
            ),
            "1,000 parameters trained on 5,000 tokens, validation perplexity 131.7",
        ),
        (
            artifact(
                "EvalReport",
                details={"benchmarks": "sample"},
                metrics={
                    "mmlu.acc": 0.25,
                    "arc_easy.acc": 0.425,
                    "heldout.perplexity": 216.9,
                    "heldout.unigram_perplexity": 847.8,
                },
            ),
            "sample: arc_easy 0.42, mmlu 0.25; held-out perplexity 217 (unigram 848)",
        ),
        (
            artifact(
                "EvalReport",
                details={"benchmarks": "mirror", "tasks": {"hellaswag": {"acc_norm": {}, "acc": {}}, "bare": {}}},
                metrics={"hellaswag.acc_norm": 0.3, "hellaswag.acc": 0.2, "mmlu.acc": 0.25},
            ),
            "mirror: mmlu 0.25, hellaswag 0.30",
        ),
        (
            artifact("Decision", details={"verdict": "no_evidence", "candidate": "Model/b", "baseline": "Model/a"}),
            "no evidence: Model/b against Model/a",
        ),
        (artifact("Decision", details={"verdict": "pass", "candidate": "Model/b", "baseline": ""}), "pass: Model/b"),
        (artifact("FeedbackSet", counts={"examples": 1200, "dropped.short": 3}), "1,200 examples"),
    ],
)
def test_headline(given: Artifact, expected: str) -> None:
    assert headline(given) == expected
