"""The quick way to a tokenizer and a context's length gives what transformers' own way gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from cluster.errors import UserError
from evals.tokenizer import load_tokenizer, longest_sequence
from pipelines.cli import run_command

TEXTS = ["the sun is a star", " été  \n\n1+1=2", "<bos>light<eos>", ""]


def assert_same(folder: Path) -> None:
    quick, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(quick) is type(theirs)
    assert (quick.bos_token_id, quick.eos_token_id, quick.model_max_length) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.model_max_length,
    )
    for special in (True, False):
        assert [quick.encode(text, add_special_tokens=special) for text in TEXTS] == [
            theirs.encode(text, add_special_tokens=special) for text in TEXTS
        ]
    assert longest_sequence(folder, quick) == AutoConfig.from_pretrained(folder).max_position_embeddings


def test_a_llamas_plain_tokenizer(tiny_model: Path) -> None:
    assert_same(tiny_model)


@pytest.mark.anchor
def test_that_of_a_real_model(anchors: Path) -> None:
    assert_same(anchors / "models" / "stories260K-hd32")


def test_other_models_are_left_to_transformers(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "mistral"}))
    assert_same(folder)
    del settings["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert longest_sequence(folder, None) == AutoConfig.from_pretrained(folder).max_position_embeddings


def test_a_model_without_one_is_refused_before_anything_starts(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    monkeypatch.setattr("pipelines.commands.eval.connect", lambda *_: pytest.fail("Ray was started"))
    words = ["eval", str(folder), "--suite", "arc_easy", "--benchmarks", "sample", "--store", str(tmp_path / "store")]
    assert run_command(words) == 2
    assert "has no tokenizer: none of its files is there" in capsys.readouterr().err
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="has no tokenizer that can be loaded"):
        load_tokenizer(folder)


def test_the_process_that_asks_imports_no_torch(tiny_model: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from evals.harness import ClusterLM
lm = ClusterLM(Path({str(tiny_model)!r}), None, 8, None)
assert lm.tok_encode("the sun") and lm.max_length == 256
assert not [name for name in ("torch", "sklearn", "scipy", "pandas") if name in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
