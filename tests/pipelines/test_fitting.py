"""A recipe whose sections do not go together is refused when it is read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cluster import session
from cluster.config import parse_document
from cluster.errors import UserError
from cluster.progress import Progress
from pipelines.fitting import MATRICES
from pipelines.lifecycle import run_recipe
from pipelines.recipe import Recipe, validate_recipe

BERT = "pretrain: {architecture: bert}\ntokenizer: {mask_token: true}\n"
T5 = "pretrain: {architecture: t5}\ntokenizer: {sentinels: 26}\n"
OWN = "pretrain: {architecture: 'pipelines.models.recurrent:LSTMModel'}\n"
SERVED = "serving: {variants: [{name: base, model: '@pretrain', weight: 1}]}\n"


def recipe(text: str) -> Recipe:
    return validate_recipe(parse_document(text, "recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "corpus: {sources: [{kind: text, path: a, name: manuals}, {kind: warc, path: b}]}\n"
            "curate: {mix: {sources: {manual: {max_repeats: 2}}}}",
            "manual is no source of corpus; did you mean manuals. Sources here: manuals, warc",
        ),
        ("pretrain: {architecture: bert}", "Set tokenizer.mask_token: true"),
        ("pretrain: {architecture: t5}", "t5 needs 26 sentinels for blocks of 512 tokens. Set tokenizer.sentinels: 26"),
        (T5 + "tokens: {sequence_length: 1024}", "needs 51 sentinels"),
        (
            "pretrain: {max_positions: 128}\ntokens: {sequence_length: 256}",
            "max_positions 128 is shorter than the tokens' blocks of 256",
        ),
        (
            "tokens: {sequence_length: 64}\nfinetune: {sequence_length: 65}",
            "65 is longer than the model's context of 64",
        ),
        ("pretrain: {max_positions: 512}\nalign: {sequence_length: 513}", "align.sequence_length: 512 or less"),
        (BERT + "evals:", "bert predicts no next token"),
        (
            "finetune: {target_modules: [query]}",
            "target_modules: query matches nothing in a llama. Its layers have q_proj, k_proj",
        ),
        (
            "pretrain: {architecture: gpt2}\nfinetune: {target_modules: [c_attn, c_porj]}",
            "c_porj matches nothing in a gpt2; did you mean c_proj",
        ),
        (T5 + "evals:", "t5 predicts no next token"),
        (BERT + "finetune:", "that transformers loads, not bert"),
        (OWN + "finetune:", "Leave finetune out, train llama or gpt2"),
        (OWN + SERVED, "vLLM serves no pipelines.models.recurrent:LSTMModel .variant base"),
    ],
)
def test_what_does_not_go_together(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(text)


@pytest.mark.parametrize(
    "text",
    [
        BERT,
        T5,
        OWN,
        OWN + "evals:",
        "pretrain: {architecture: gpt2}\nevals:\n" + SERVED,
        "pretrain: {architecture: llama}\nfinetune:\nevals:\n" + SERVED,
        "pretrain: {architecture: bert}\ntokenizer: {source: /some/tokenizer}",
        "pretrain: {architecture: gpt2}\nfinetune:\n",
        "finetune: {model: /models/llama, data: chats.jsonl, target_modules: [query]}",
        "finetune: {target_modules: [self_attn.q_proj, down_proj, lm_head]}",
        "tokens: {sequence_length: 16}\nfinetune: {model: /a/b, sequence_length: 17}\nalign: {sequence_length: 17}",
        "tokens: {sequence_length: 64}\npretrain: {max_positions: 65}\nfinetune: {sequence_length: 65}",
    ],
)
def test_what_goes_together(text: str) -> None:
    assert recipe(text).written


@pytest.mark.parametrize("architecture", MATRICES)
def test_matrices_are_called_what_they_are_called(architecture: str) -> None:
    import torch

    from pipelines.finetune.methods import matrices
    from pipelines.models.build import build_model
    from pipelines.models.config import ModelConfig

    config = ModelConfig.model_validate({"architecture": architecture, "size": "nano"})
    with torch.device("meta"):
        model = build_model(config, vocab_size=300, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
    assert matrices(model) == sorted(MATRICES[architecture])


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
def test_more_workers_than_an_embedded_ray_has_are_refused_before_the_first_stage(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_initialise", lambda *arguments, **more: pytest.fail("Ray was started"))
    Path("a.txt").write_text("A text.", encoding="utf-8")
    text = "corpus: {sources: [{kind: text, path: a.txt}]}\ncluster: {logical_cpus: 9}\n"
    written = recipe(text + f"{section}: {{workers: 10, batch_sequences: 10}}")
    with pytest.raises(UserError, match=rf"{section}\.workers: 10 workers need 10 CPUs, the cluster has 9"):
        run_recipe(written, Progress(io.StringIO(), live=False))
    assert not list(Path("raymill-store").glob("*/*"))


@pytest.mark.parametrize(
    ("source", "curate", "message"),
    [
        ("{kind: text, path: a.txt}", "language: [en, klingon]", "'klingon' is no language that can be identified"),
        ("{kind: text, path: a.txt}", "filters: ['nobody:has_this']", "nobody"),
        ("{kind: text, path: a.txt}", "dedup: {against: [Corpus/curate-0123456789ab]}", "no such artifact"),
        ("{kind: custom, function: 'nobody:has_this', version: '1'}", "", "cannot be imported"),
    ],
)
def test_what_a_later_stage_would_refuse_is_said_before_the_first_one(
    source: str, curate: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("A text.", encoding="utf-8")
    written = recipe(f"corpus: {{sources: [{source}]}}\ncurate: {{{curate}}}")
    with pytest.raises(UserError, match=message):
        run_recipe(written, Progress(io.StringIO(), live=False))
    assert not list(Path("raymill-store").glob("Corpus/*"))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("pretrain: {architecture: 'nobody:Model'}", "cannot be imported: ModuleNotFoundError"),
        ("pretrain: {architecture: 'collections:OrderedDict'}", "is a class that is not a torch.nn.Module"),
        (
            "pretrain: {architecture: 'pipelines.models.recurrent:LSTMModel', options: {hiden: 3}}",
            "cannot be made with vocab_size, max_positions, hiden: .* unexpected keyword argument 'hiden'",
        ),
        ("pretrain: {mlflow: 'file:curves'}", r"pretrain\.mlflow: mlflow is not installed here"),
        ("finetune: {mlflow: 'file:curves'}", r"finetune\.mlflow: mlflow is not installed here"),
    ],
)
def test_what_training_would_refuse_is_said_before_the_first_stage(
    training: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(session, "_initialise", lambda *arguments, **more: pytest.fail("Ray was started"))
    Path("a.txt").write_text("A text.", encoding="utf-8")
    written = recipe(f"corpus: {{sources: [{{kind: text, path: a.txt}}]}}\n{training}")
    with pytest.raises(UserError, match=message):
        run_recipe(written, Progress(io.StringIO(), live=False))
    assert not list(Path("raymill-store").glob("Corpus/*"))


GRPO = "align: {method: grpo, data: rows.jsonl, reward: "


@pytest.mark.parametrize(
    ("learning", "message"),
    [
        ("finetune: {data: rows.jsonl}", r"rows\.jsonl:2: completion is missing"),
        ("finetune: {forgetting: rows.jsonl}", r"rows\.jsonl:2: completion is missing"),
        ("finetune: {data: few.jsonl}", "1 different prompts are too few"),
        ("finetune: {task: classification, data: few.jsonl}", r"few\.jsonl:1: text is missing"),
        (T5 + "finetune: {task: seq2seq, data: rows.jsonl, sequence_length: 64}", r"rows\.jsonl:2: completion is"),
        ("finetune:\nalign: {data: rows.jsonl}", r"rows\.jsonl:1: the rows are pairs, and this method learns"),
        ("align: {data: pairs.jsonl}", r"pairs\.jsonl:2: rejected is missing"),
        ("align: {method: reward, data: pairs.jsonl}", r"pairs\.jsonl:2: rejected is missing"),
        (GRPO + "'nobody:pays'}", "nobody:pays: cannot be imported"),
        (GRPO + "'json:pays'}", "json has nothing called pays"),
        (GRPO + "RewardModel/align-0123456789ab}", "RewardModel/align-0123456789ab: is not in the store"),
    ],
)
def test_rows_and_rewards_that_cannot_be_are_named_before_the_model_is_pretrained(
    learning: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_initialise", lambda *arguments, **more: pytest.fail("Ray was started"))
    Path("a.txt").write_text("A text.", encoding="utf-8")
    Path("few.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "b", "completion": ""}\n')
    Path("pairs.jsonl").write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "b", "chosen": "b", "rejected": ""}\n'
    )
    written = recipe(f"corpus: {{sources: [{{kind: text, path: a.txt}}]}}\n{learning}")
    with pytest.raises(UserError, match=message):
        run_recipe(written, Progress(io.StringIO(), live=False))
    assert not list(Path("raymill-store").glob("Corpus/*"))
