"""A recipe with an encoder-decoder, from the command to the published model, on two workers of a real Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.artifact import find_artifact, local_copy
from cluster.store import open_store
from pipelines.cli import run_command
from tests.pipelines.finetune.test_seq2seq_runs import pairs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_recipe_is_run_by_two_workers(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    rows = [{"prompt": each.messages[0].content, "completion": each.messages[1].content} for each in pairs(60, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = f"task: seq2seq, model: {encoder_decoders['t5']}, data: {tmp_path / 'rows.jsonl'}, sequence_length: 48"
    learned = "method: full, learning_rate: 0.005, steps: 60, batch_sequences: 16, workers: 2, answers_scored: 6"
    target = "objective: {targets: {finetune.validation.rougeL: '>= 0.9'}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"store: {tmp_path / 'store'}\n{target}\nfinetune: {{{section}, {learned}}}\n")
    assert run_command(["run", str(recipe)]) == 0
    store = open_store(tmp_path / "store")
    made = find_artifact(store, "finetune")
    assert made.kind == "Model" and made.metrics["validation.rougeL"] >= 0.9
    _, told = AutoModelForSeq2SeqLM.from_pretrained(local_copy(store, made), output_loading_info=True)
    assert not any(told.values())
