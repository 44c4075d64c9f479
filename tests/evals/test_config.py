"""The recipe section: what is refused, and what it costs to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from evals.config import SUITES, EvalsConfig


def test_defaults_are_the_five_suites_and_no_choice_of_questions() -> None:
    config = EvalsConfig()
    assert config.suites == SUITES == ("arc_easy", "arc_challenge", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")
    assert config.benchmarks is None


def test_an_unknown_task_is_refused_with_its_line_and_the_nearest_known_one() -> None:
    document = parse_document("benchmarks: sample\nsuites: [arc_easy, truthfulqa_mc]\n", "recipe.yaml")
    with pytest.raises(UserError, match="did you mean truthfulqa_mc") as caught:
        validate(EvalsConfig, document)
    assert caught.value.where == "recipe.yaml:2"


@pytest.mark.parametrize("text", ["suites: []", "suites: [mmlu, mmlu]", "limit: 0", "batch_size: 0", "benchmark: hub"])
def test_values_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        validate(EvalsConfig, parse_document(text, "recipe.yaml"))


def test_the_number_of_workers_is_not_part_of_the_identity_and_the_batch_size_is() -> None:
    fields = identity_fields(EvalsConfig())
    assert "workers" not in fields
    assert {"batch_size", "share_prefixes", "seed", "limit", "num_fewshot", "suites"} <= set(fields)


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from evals.config import EvalsConfig, STAGE; from cluster.stage import load_entry;"
        "load_entry(STAGE.resolve);"
        "heavy = {'torch', 'ray', 'transformers', 'datasets', 'lm_eval', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
