"""Sources and targets as tokens, their loss, how like texts are, and what a recipe with an encoder-decoder may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from cluster.artifact import Artifact
from cluster.config import parse_document
from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Conversation, dialogue
from pipelines.finetune.likeness import compare, likeness, metrics_of
from pipelines.finetune.load import load_examples, load_tokenizer
from pipelines.finetune.seq2seq.encode import EncodedPair, PairEncoder, PairSamples
from pipelines.finetune.seq2seq.model import TargetMarks, require_encoder_decoder, target_marks
from pipelines.finetune.seq2seq.task import encoder_of
from pipelines.graph import build_graph
from pipelines.headlines import headline
from pipelines.models.existing import ExistingModelConfig, check_causal
from pipelines.recipe import validate_recipe
from pipelines.train.loss import LossModule
from serving.engines.resolve import find_source


def test_rouge_and_bleu_are_those_of_their_papers() -> None:
    """Lin (2004), section 3: "police killed the gunman" against two candidates."""
    wanted = ["police killed the gunman"] * 2
    (first, signature), (second, _) = (
        likeness([text], wanted[:1]) for text in ("police kill the gunman", "the gunman kill police")
    )
    assert (first["rouge1"], first["rouge2"], first["rougeL"]) == pytest.approx((0.75, 1 / 3, 0.75))
    assert (second["rouge1"], second["rougeL"]) == pytest.approx((0.75, 0.5))
    both, _ = likeness(["police kill the gunman", "the gunman kill police"], wanted)
    assert both["rougeL"] == pytest.approx((0.75 + 0.5) / 2)
    assert signature.startswith("nrefs:1|case:mixed|")
    # Papineni and others (2002) by hand: shares of 4/5, 3/4, 2/3 and 1/2 right n-grams, no word too few.
    assert likeness(["a b c d f"], ["a b c d e"])[0]["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    wanted = ["the cat sat on the mat", "a dog sat"]
    found = compare(["", "a"], wanted, wanted)
    metrics = metrics_of(found)
    assert metrics["validation.rougeL"] == 1.0 and metrics["validation.rougeL_before"] == pytest.approx(0.25)
    assert metrics["validation.bleu_before"] < 1 and metrics["validation.bleu"] == pytest.approx(100)


def encoder(folder: Path, **fields: Any) -> PairEncoder:
    config = FinetuneConfig.model_validate({"task": "seq2seq", "data": "rows.jsonl"} | fields)
    return encoder_of(config, load_tokenizer(folder), folder)


def test_sources_are_the_tokenizers_and_targets_end(encoder_decoders: dict[str, Path]) -> None:
    pair = dialogue("words words", "other", "r:1")
    for name, around in (("t5", False), ("bart", True)):
        folder = encoder_decoders[name]
        tokenizer = load_tokenizer(folder)
        (found,) = encoder(folder, sequence_length=32).encode_all([pair]).encoded
        assert list(found.source) == tokenizer("words words").input_ids
        assert (found.source[-1] == 1) == around
        plain = tokenizer("other", add_special_tokens=False).input_ids
        assert list(found.target) == [0, *plain, 1]
    forced = TargetMarks(pad=2, start=1, first=7, end=1)  # as nllb's language of the target
    (found,) = PairEncoder(load_tokenizer(encoder_decoders["bart"]), forced, 32, "refuse").encode_all([pair]).encoded
    assert found.target == (7, *plain, 1)


def test_marks_are_those_that_generation_uses(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(encoder_decoders["bart"])
    assert target_marks(encoder_decoders["t5"], tokenizer) == TargetMarks(pad=2, start=2, first=None, end=1)
    told = target_marks(encoder_decoders["bart"], tokenizer)
    assert told == TargetMarks(pad=2, start=1, first=0, end=1)
    settings = json.loads((encoder_decoders["bart"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"forced_bos_token_id": 0}))  # as older folders have it
    assert target_marks(tmp_path, tokenizer) == told
    unsaid = {name: value for name, value in settings.items() if name not in ("bos_token_id", "decoder_start_token_id")}
    (tmp_path / "config.json").write_text(json.dumps(unsaid | {"model_type": "t5"}))
    with pytest.raises(UserError, match="nothing says what its decoder begins with"):
        target_marks(tmp_path, tokenizer)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_loss_is_transformers_own(encoder_decoders: dict[str, Path], name: str) -> None:
    folder = encoder_decoders[name]
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    pairs = [dialogue(f"words {'words ' * n}{n}", f"{'other ' * (3 - n)}{n}") for n in range(3)]
    found = encoder(folder, sequence_length=60).encode_all(pairs).encoded
    samples = PairSamples(found, target_marks(folder, load_tokenizer(folder)))
    numbers = np.arange(3)
    batch = samples.batch(numbers)
    with torch.no_grad():
        ours = LossModule(model, 0.0)(batch.inputs, batch.labels, batch.arguments)[0] / samples.targets(numbers)
        mask = batch.arguments["attention_mask"]
        theirs = model(input_ids=batch.inputs, attention_mask=mask, labels=batch.labels).loss  # it shifts them itself
        alone = [model(torch.tensor([e.source]), labels=torch.tensor([e.target])).loss * len(e.target) for e in found]
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    assert float(ours) == pytest.approx(float(sum(alone)) / samples.targets(numbers), abs=1e-5)  # padding is not seen
    assert mask.sum(1).tolist() == [len(each.source) for each in found]
    assert samples.tokens_of(numbers) == sum(len(each.source) + len(each.target) for each in found)


def test_pairs_that_are_too_long(encoder_decoders: dict[str, Path]) -> None:
    bart = encoder_decoders["bart"]
    long, wordy = dialogue("words " * 80, "b", "r:1"), dialogue("a", "words " * 80, "r:2")
    with pytest.raises(UserError, match=r"r:1: its prompt has \d+ tokens, more than the 64 that fit"):
        encoder(bart).encode_all([long])
    found = encoder(bart, too_long="drop").encode_all([long, wordy, dialogue("a", "b", "r:3")])
    assert found.dropped == ["r:1", "r:2"] and len(found.encoded) == 1
    for side in ("left", "right"):
        cut = encoder(bart, too_long=side).encode_all([dialogue("first " + "words " * 80 + "last", "b", "r:1")])
        (pair,) = cut.encoded
        assert cut.shortened == 1 and len(pair.source) == 64 and pair.source[0] == 0 and pair.source[-1] == 1
        text = load_tokenizer(bart).decode(pair.source)
        assert ("last" in text, "first" in text) == (side == "left", side == "right")
        with pytest.raises(UserError, match=r"r:2: its completion has \d+ tokens"):
            encoder(bart, too_long=side).encode_all([wordy])
    with pytest.raises(UserError, match="it has 4 messages: an encoder-decoder reads one source"):
        encoder(bart).encode_all([Conversation(long.messages * 2, "r:4")])


def test_relative_positions_bound_nothing(encoder_decoders: dict[str, Path]) -> None:
    assert encoder(encoder_decoders["bart"]).length == 64
    with pytest.raises(UserError, match="80 tokens do not fit the model's context of 64"):
        encoder(encoder_decoders["bart"], sequence_length=80)
    assert encoder(encoder_decoders["t5"], sequence_length=4000).length == 4000
    with pytest.raises(UserError, match="the model has no longest sequence of its own"):
        encoder(encoder_decoders["t5"])


def test_what_is_no_encoder_decoder_is_refused(encoder_decoders: dict[str, Path], bases: dict[str, Path]) -> None:
    assert require_encoder_decoder(encoder_decoders["t5"]).model_type == "t5"
    with pytest.raises(UserError, match="a llama has no encoder and decoder"):
        require_encoder_decoder(bases["llama"])
    for name in ("t5", "bart"):  # transformers would make a decoder of bart with half of its weights
        config = ExistingModelConfig(source=str(encoder_decoders[name]))
        with pytest.raises(UserError, match="fine-tuning takes encoder-decoders with task: seq2seq"):
            check_causal(encoder_decoders[name], config)


def test_vllm_serves_none_of_them(encoder_decoders: dict[str, Path], store: LocalStore, publish_model: Any) -> None:
    made = publish_model(store, encoder_decoders["t5"], "Model", "finetune")
    for reference in (str(encoder_decoders["bart"]), made.id):
        with pytest.raises(UserError, match=r"is an encoder-decoder \(\w+\): vLLM has no encoder-decoder that turns"):
            find_source(store, reference)


DATA = "task: seq2seq, data: rows.jsonl"
T5 = "pretrain: {architecture: t5}\ntokenizer: {sentinels: 99}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"finetune: {{{DATA}, packing: true}}", "packing means nothing to task seq2seq"),
        (f"finetune: {{{DATA}, labels: [a, b]}}", "labels means nothing to task seq2seq"),
        (f"finetune: {{{DATA}, method: prefix}}", "an encoder-decoder has two stacks: use full, lora or ia3"),
        ("finetune: {task: seq2seq, data: {kind: jsonl, path: a, system: Be brief.}}", "data.system is for conv"),
        ("finetune: {task: classification, data: a.jsonl, answers_scored: 3}", "answers_scored means nothing"),
        (f"finetune: {{{DATA}}}", "task seq2seq is for encoder-decoders, not llama. Pretrain t5"),
        (f"{T5}finetune: {{{DATA}}}", "t5 has relative positions, so that nothing bounds a text"),
        (f"{T5}finetune: {{data: rows.jsonl}}", "not t5. Set task: seq2seq, train llama or gpt2"),
        (f"finetune: {{{DATA}, model: m}}\nevals:", "every suite asks a model that predicts next tokens"),
        (f"finetune: {{{DATA}, model: m}}\nalign: {{data: p.jsonl}}", "it needs a decoder that writes, and finetune"),
        (
            f'finetune: {{{DATA}, model: m}}\nserving: {{variants: [{{name: a, model: "@finetune", weight: 1}}]}}',
            r"@finetune is an encoder-decoder .variant a., and vLLM has no encoder-decoder that turns text",
        ),
    ],
)
def test_what_does_not_go_with_an_encoder_decoder_is_said_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_recipe(parse_document(text, "recipe.yaml"))


def test_what_comes_of_it() -> None:
    def node(text: str) -> Any:
        nodes = {each.name: each for each in build_graph(validate_recipe(parse_document(text, "recipe.yaml")))}
        assert "evals-finetune" not in nodes
        return nodes["finetune"]

    long = f"{T5}tokens: {{sequence_length: 64}}\nfinetune: {{{DATA}, sequence_length: 512}}"
    assert node(long).stage.kind == "Seq2SeqAdapter"
    for more in ("method: full", "merge: true"):
        assert node(f"finetune: {{{DATA}, model: m, {more}}}").stage.kind == "Model"
    record = {"kind": "Seq2SeqAdapter", "name": "finetune", "fingerprint": "0" * 64, "identity": {}, "attempt": "a"}
    metrics = {"perplexity": 3.25, "rougeL": 0.5, "bleu": 20.0, "rougeL_before": 0.1, "bleu_before": 0.2}
    made = Artifact.model_validate(
        record
        | {"files": [], "counts": {"trained_parameters": 10, "tokens": 20}}
        | {"metrics": {f"validation.{name}": value for name, value in metrics.items()}}
    )
    assert headline(made).endswith("perplexity of the answers 3.2, ROUGE-L 0.50 and BLEU 20.0 (before 0.10 and 0.2)")


def test_only_answers_can_be_scored(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"words {n}"}) + "\n" for n in range(9)))
    config = FinetuneConfig.model_validate({"data": str(tmp_path / "a.jsonl"), "answers_scored": 3})
    with pytest.raises(UserError, match=r"finetune.answers_scored: the rows are texts"):
        load_examples(config, None, store)


def test_a_plan_shows_source_and_target(
    encoder_decoders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"words {number}", "completion": "other"} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "r.yaml"
    data = f"data: {tmp_path / 'rows.jsonl'}, method: full"
    path.write_text(f"finetune: {{task: seq2seq, model: {encoder_decoders['bart']}, {data}}}\n")
    arguments = ["plan", str(path), "--store", str(tmp_path / "store")]
    assert run_command([*arguments, "--examples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "finetune makes an encoder-decoder: vLLM has no encoder-decoder that turns text into text" in shown
    assert "tokens are read," in shown and "     0 *       0 '<|bos|>'" in shown
    assert run_command([*arguments, "--set", "finetune.method=lora"]) == 0
    assert "an adapter of an encoder-decoder: vLLM has no" in capsys.readouterr().out


def test_shifted_targets_are_repeated_without_loss() -> None:
    marks = TargetMarks(pad=9, start=8, first=None, end=1)
    batch = PairSamples([EncodedPair((3, 4, 5), (6, 1)), EncodedPair((3,), (5, 6, 7, 1))], marks).batch(
        np.array([2, 1])
    )
    assert batch.inputs.tolist() == [[3, 4, 5], [3, 9, 9]]
    assert batch.labels.tolist() == [[6, 1, -100, -100], [5, 6, 7, 1]]
    assert batch.arguments["decoder_input_ids"].tolist() == [[8, 6, 9, 9], [8, 5, 6, 7]]


def test_layers_are_found_in_both_stacks(encoder_decoders: dict[str, Path]) -> None:
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as THEIRS

    from pipelines.finetune.methods import peft_settings
    from pipelines.train.shaping import depths_of

    ia3 = FinetuneConfig.model_validate({"task": "seq2seq", "data": "rows.jsonl", "method": "ia3"})
    for name, encoder_layer, decoder_layer in (
        ("t5", "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.block.1.layer.1.EncDecAttention.q.weight"),
        ("bart", "model.encoder.layers.0.self_attn.q_proj.weight", "model.decoder.layers.1.encoder_attn.q_proj.weight"),
    ):
        model = AutoModelForSeq2SeqLM.from_pretrained(encoder_decoders[name])
        chosen = set(peft_settings(model, ia3).target_modules)
        assert chosen == set(THEIRS["t5"]) if name == "t5" else chosen >= {"k_proj", "v_proj", "fc2"}
        depths = depths_of(model)
        assert depths[decoder_layer] == 1 and depths[encoder_layer] == 4 == max(depths.values()) - 1
