"""What a run does with checkpoints that are damaged, half-written or another model's; what is got out of good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import run_command
from pipelines.train.course import Course
from tests.pipelines.train_driver import (
    GENTLE,
    LIMIT_S,
    STEPS,
    Uninterrupted,
    artifact_of,
    driver,
    end_well,
    starts,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]


@pytest.mark.parametrize("harm", ["a bit", "half a file", "half a checkpoint"])
def test_a_newest_checkpoint_that_is_not_whole_is_not_used(
    uninterrupted: Uninterrupted, tmp_path: Path, harm: str
) -> None:
    root = tmp_path / "store"
    store, log = uninterrupted.fresh_store(root), tmp_path / "first.log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_until(lambda: len(complete_checkpoints(root)) > 1, process, log)
        process.kill()
        process.wait(timeout=60)
    *_, before, newest = complete_checkpoints(root)
    part = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data if harm == "a bit" else data[: len(data) // 2])
    if harm == "half a checkpoint":  # killed while it was written
        (newest / "complete.json").unlink()
    with driver(store, uninterrupted.inputs, GENTLE, tmp_path / "second.log") as process:
        said = end_well(process, tmp_path / "second.log")
    told = f"{newest.name} is damaged and is not used: {part.name} is damaged (its checksum differs)"
    if harm == "half a checkpoint":
        told = f"{newest.name} was not written to its end (it has no sound complete.json) and is not used"
    assert told in said
    step = int(before.name.removeprefix("step-"))
    assert f"continues at step {step:,} of {STEPS:,}" in said
    assert [each["step"] for each in starts(store, artifact_of(store))] == [0, step]
    uninterrupted.assert_same(store)


def test_a_checkpoint_of_another_architecture_ends_the_run_with_one_message(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """One that was put there by hand, say."""
    import torch

    from pipelines.train.group import Group
    from pipelines.train.saver import Saver

    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "log"
    place = f"{uninterrupted.artifact.id}/another/resume/train/checkpoints"
    other = Saver(store, place, Group(), keep=2)
    other.save(0, {"model/transformer.wte.weight": torch.zeros(600, 64)}, Course().to_json())
    other.finish()
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        assert process.wait(timeout=LIMIT_S) == 2, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("error: ") == 1 and "Traceback" not in said
    message = said.partition("error: ")[2]
    assert "step-000000000: the checkpoint is of another model or optimiser: it has no model/model." in message
    assert "--force" in message


def test_a_checkpoint_of_a_killed_sharded_run_becomes_a_hugging_face_model(
    uninterrupted: Uninterrupted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compared with what torch's own tool makes of the same files."""
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path / "store"
    store, log = uninterrupted.fresh_store(root), tmp_path / "log"
    with driver(store, uninterrupted.inputs, GENTLE | {"parallel": {"shard": 2}}, log) as process:
        wait_until(lambda: len(complete_checkpoints(root)) > 0, process, log)
        process.kill()
        process.wait(timeout=60)
    newest = complete_checkpoints(root)[-1]
    assert len(list(newest.glob("*.distcp"))) == 2
    tokenizer = Path(store.url, uninterrupted.inputs.tokenizer.data_prefix)
    run = f"{store.url}/{uninterrupted.artifact.id}"
    assert run_command(["convert", run, str(tmp_path / "model"), "--tokenizer", str(tokenizer)]) == 0
    assert f"from {newest}" in capsys.readouterr().out
    dcp_to_torch_save(newest, tmp_path / "whole.pt")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    found = dict(model.named_parameters())
    expected = {
        name.removeprefix("model/"): each
        for name, each in torch.load(tmp_path / "whole.pt").items()
        if name.startswith("model/")
    }
    assert expected.keys() == found.keys() and len(found) > 15
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == 600


def complete_checkpoints(root: Path) -> list[Path]:
    """Folders of a run's complete checkpoints, by step."""
    found = root.glob("Model/*/*/resume/train/checkpoints/*/complete.json")
    return sorted((path.parent for path in found), key=lambda path: path.name)
