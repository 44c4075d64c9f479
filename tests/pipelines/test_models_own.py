"""Classes of the user's own: the shipped baselines keep the contract, others are refused with what is wrong."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cluster.errors import UserError
from pipelines.models.export import export_model
from pipelines.models.own import build_own, check_own, load_stored
from pipelines.models.sampling import continue_texts
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe

SHIPPED = ("pipelines.models.recurrent:LSTMModel", "pipelines.models.convolutional:ConvolutionalModel")
SIZES = {"vocab_size": 300, "max_positions": 16}


class Plain(nn.Module):
    """A bigram model."""

    def __init__(self, *, vocab_size: int, max_positions: int, looks_ahead: bool = False, extra: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size + extra)
        self.looks_ahead = looks_ahead

    def forward(self, input_ids: torch.Tensor, **_further: Any) -> Any:
        logits = self.table(input_ids)
        return SimpleNamespace(logits=logits + logits.mean(1, keepdim=True) if self.looks_ahead else logits)


class Empty(Plain):
    def __init__(self, *, vocab_size: int, max_positions: int) -> None:
        nn.Module.__init__(self)


class Failing(Plain):
    def forward(self, input_ids: torch.Tensor, **_further: Any) -> Any:
        raise ValueError("not today")


@pytest.fixture
def mine() -> Iterator[None]:
    """The classes above in an importable module, as a user's file is."""
    module: Any = types.ModuleType("mine")
    module.Plain, module.Empty, module.Failing, module.number, module.Other = Plain, Empty, Failing, 3, dict
    sys.modules["mine"] = module
    yield
    del sys.modules["mine"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_baselines_keep_the_contract_and_come_back(name: str, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    write_folder(learn_bpe(["some words to learn from"] * 3, 300, 2), tokenizer)
    options = {"hidden": 48, "layers": 2, "dropout": 0.1}
    check_own(name, options, **SIZES)
    torch.manual_seed(1)
    model = build_own(name, options, **SIZES)
    probe = torch.randint(0, 300, (2, 16))
    out = tmp_path / "model"
    assert export_model(model, tokenizer, out, probe) == 0
    again = load_stored(out)
    assert torch.equal(again.eval()(probe).logits, model.eval()(probe).logits)
    assert again.output.weight is again.embedding.weight
    assert (out / "model.safetensors").is_file()
    texts = continue_texts(model, out, seed=1, tokens=20)
    assert texts == continue_texts(again, out, seed=1, tokens=20)
    assert texts[0]["text"]


def test_evaluation_loads_it_by_its_class(tmp_path: Path) -> None:
    """What evals reads is what was written here; the two packages do not import each other."""
    from evals.own_model import load_own_model, read_own

    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    write_folder(learn_bpe(["some words to learn from"] * 3, 300, 2), tokenizer)
    model = build_own(SHIPPED[0], {"hidden": 48}, **SIZES)
    probe = torch.randint(0, 300, (1, 9))
    export_model(model, tokenizer, tmp_path / "model", probe)
    described = read_own(tmp_path / "model")
    assert described is not None
    assert described.max_position_embeddings == 16
    loaded = load_own_model(tmp_path / "model", described).eval()
    assert torch.equal(loaded(probe).logits, model.eval()(probe).logits)
    assert read_own(tokenizer) is None
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"hidden": 48', '"hidden": 56'))
    changed = read_own(tmp_path / "model")
    assert changed is not None
    with pytest.raises(UserError, match="does not fit the stored model"):
        load_own_model(tmp_path / "model", changed)


def test_evaluation_scores_it(tmp_path: Path) -> None:
    """Scorer and harness, without their Ray actors: the log-likelihood is the model's own."""
    from cluster.progress import Progress
    from evals.harness import ClusterLM
    from evals.scorer import Group, Scorer

    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    write_folder(learn_bpe(["some words to learn from"] * 3, 300, 2), tokenizer)
    model = build_own(SHIPPED[1], {"hidden": 48, "layers": 2}, **SIZES)
    folder = tmp_path / "model"
    export_model(model, tokenizer, folder, torch.randint(0, 300, (1, 9)))
    source: Any = SimpleNamespace(folders=lambda: (folder, None))
    scorer = Scorer(source)
    scorer.load()
    [[[(likelihood, _)]]] = scorer.score([[Group([0, 50, 60, 70], [[60, 70, 80]])]])
    with torch.no_grad():
        rows = model.eval()(torch.tensor([[0, 50, 60, 70]])).logits[0].log_softmax(-1)
    assert likelihood == pytest.approx(float(rows[1, 60] + rows[2, 70] + rows[3, 80]), abs=1e-5)
    pool: Any = None
    with Progress().track("evals") as tracker:
        assert ClusterLM(folder, pool, 1, tracker).max_length == SIZES["max_positions"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere.at.all:Model", {}, "cannot be imported: ModuleNotFoundError"),
        ("mine:Missing", {}, "mine has nothing called Missing"),
        ("mine:number", {}, "is int, not a model"),
        ("mine:Other", {}, "not a torch.nn.Module"),
        ("mine:Plain", {"width": 3}, "cannot be made with .*unexpected keyword argument 'width'"),
        ("mine:Empty", {}, "no parameters to train"),
        ("mine:Failing", {}, "its forward fails: ValueError: not today"),
        ("mine:Plain", {"extra": 1}, r"logits are \[1, 6, 301\] for tokens \[1, 6\], not \[1, 6, 300\]"),
        ("mine:Plain", {"looks_ahead": True}, "sees the tokens that it is to predict"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_what_is_not_a_model_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_own(name, options, **SIZES)
    assert caught.value.next_step


@pytest.mark.usefixtures("mine")
def test_a_model_of_a_few_lines_is_accepted() -> None:
    check_own("mine:Plain", {}, **SIZES)


def test_the_guides_model_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (tmp_path / "bigram.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)  # where the command runs is where its modules are found
    monkeypatch.setattr(sys, "path", list(sys.path))
    check_own("bigram:Bigram", {"width": 128}, **SIZES)
    del sys.modules["bigram"]
