"""Each method against peft's own loop, through a kill, and out of the file that it is written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.finetune.bottleneck import Bottleneck
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.encode import Encoded
from pipelines.finetune.examples.samples import ExampleSamples
from pipelines.finetune.export import export_adapter, merge_folders
from pipelines.finetune.methods import adapt, load_adapter, load_base, without_addition
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train

SAMPLES = ExampleSamples([Encoded((0, 5 + n, 6, 7 + n, 8, 9), (False,) * 3 + (True,) * 3) for n in range(12)], 2)
PROBE = SAMPLES.batch(np.array([0, 1])).inputs
COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM"}
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Case = tuple[str, dict[str, Any], Callable[[], peft.PeftConfig] | None]

CASES: dict[str, Case] = {
    "lora": (
        "llama",
        {"method": "lora", "rank": 4, "alpha": 8.0},
        lambda: peft.LoraConfig(r=4, lora_alpha=8.0, target_modules=LLAMA, **COMMON),
    ),
    "rslora": (
        "gpt2",
        {"method": "lora", "rslora": True, "target_modules": ("c_attn",)},
        lambda: peft.LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=["c_attn"], **COMMON),
    ),
    "dora": (
        "llama",
        {"method": "lora", "dora": True, "target_modules": ("q_proj", "v_proj")},
        lambda: peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules=["q_proj", "v_proj"], **COMMON),
    ),
    "ia3": (
        "llama",
        {"method": "ia3"},
        lambda: peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **COMMON
        ),
    ),
    "prompt": (
        "llama",
        {"method": "prompt", "virtual_tokens": 5},
        lambda: peft.PromptTuningConfig(num_virtual_tokens=5, **COMMON),
    ),
    "prefix": (
        "llama",
        {"method": "prefix", "virtual_tokens": 5},
        lambda: peft.PrefixTuningConfig(num_virtual_tokens=5, **COMMON),
    ),
    "prefix, projected": (
        "llama",
        {"method": "prefix", "virtual_tokens": 5, "encoder_hidden": 8},
        lambda: peft.PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=8, **COMMON),
    ),
    "p-tuning": (
        "gpt2",
        {"method": "p-tuning", "virtual_tokens": 5, "encoder_hidden": 16},
        lambda: peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, **COMMON),
    ),
    "adapter": ("llama", {"method": "adapter", "bottleneck": 4}, None),
    "full": ("llama", {"method": "full", "l2_sp": 0.1, "layer_decay": 0.8, "unfreeze_every_steps": 2}, None),
}
ADDITIONS = [name for name in CASES if name != "full"]


def config_of(case: str) -> FinetuneConfig:
    return FinetuneConfig(batch_sequences=4, learning_rate=1e-2, workers=1, **CASES[case][1])


def fresh(case: str, bases: dict[str, Path]) -> Any:
    base = bases[CASES[case][0]]
    torch.manual_seed(1)
    return adapt(load_base(base), config_of(case), base)


class Killed(BaseException):
    pass


def run(
    model: Any, case: str, steps: int, store: Path, killed_at: int = 0, config: FinetuneConfig | None = None
) -> None:
    config = (config or config_of(case)).model_copy(update={"checkpoint_every_steps": 2, "validation_every_steps": 100})
    keeper = Keeper(LocalStore(store), "checkpoints", (), Group(), None, 2)
    tell = keeper.tell

    def dying(step: int) -> None:
        tell(step)
        if killed_at and step == killed_at:
            keeper.wait()
            raise Killed

    keeper.tell = dying  # type: ignore[method-assign]
    train(model, SAMPLES, SAMPLES, steps, config, Group(), keeper, "finetune")


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


class AfterLayer(torch.nn.Module):
    """A layer with a bottleneck behind it (arXiv:1902.00751), written again to hold ours against."""

    def __init__(self, layer: Any, bottleneck: Any) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, bottleneck.down, bottleneck.up

    def forward(self, *inputs: Any, **more: Any) -> Any:
        hidden = self.layer(*inputs, **more)
        return hidden + self.up(torch.nn.functional.gelu(self.down(hidden)))


def peer_of(case: str, folder: Path) -> Any:
    """The model as somebody without Raymill would make it: peft's own, or transformers' as it is."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    settings = CASES[case][2]
    if settings is not None:
        return peft.get_peft_model(base, settings())
    if case == "full":
        return base
    drawn = [Bottleneck(64, 4) for _ in base.model.layers]  # the same first weights; what is done with them is not ours
    base.requires_grad_(False)
    base.model.layers = torch.nn.ModuleList(
        AfterLayer(layer, each) for layer, each in zip(base.model.layers, drawn, strict=True)
    )
    return base


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_pefts_own_loop(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """The peer: get_peft_model, the model's own loss, clip_grad_norm_ and torch's AdamW. Two steps: before the first
    one half of an adapter is nothing, and the other half has no gradient.
    """
    from pipelines.train.order import BatchOrder
    from pipelines.train.schedule import learning_rate

    config = config_of(case)
    ours, peer = fresh(case, bases), peer_of(case, bases[CASES[case][0]])
    if case == "full":  # its parts that peft has not are in test_shaping.py
        config = config.model_copy(update={"l2_sp": 0.0, "layer_decay": 1.0, "unfreeze_every_steps": None})
    run(ours, case, 2, tmp_path, config=config)
    learned = trained(peer)
    before = {name: value.clone() for name, value in learned.items()}
    peer.train()
    optimizer = torch.optim.AdamW(
        [each for each in peer.parameters() if each.requires_grad], betas=config.betas, weight_decay=0.0
    )
    for step in range(2):
        batch = SAMPLES.batch(BatchOrder(4, len(SAMPLES), config.seed).visits(step))
        inputs = torch.cat([batch.inputs, torch.zeros(4, 1, dtype=torch.int64)], 1)
        labels = torch.cat([torch.full((4, 1), -100), batch.labels], 1)  # transformers shifts them itself
        optimizer.param_groups[0]["lr"] = learning_rate(config, step, 2)
        optimizer.zero_grad()
        peer(input_ids=inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), config.gradient_clip)
        optimizer.step()
    found = {name.replace(".bottleneck", ""): value for name, value in trained(ours).items()}
    assert found.keys() == learned.keys()
    for name, value in learned.items():
        assert torch.allclose(found[name], value, atol=1e-6, rtol=0), name
        assert not torch.equal(before[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_it_is_the_same(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    whole = fresh(case, bases)
    run(whole, case, 6, tmp_path / "whole")
    with pytest.raises(Killed):
        run(fresh(case, bases), case, 6, tmp_path / "parts", killed_at=4)
    resumed = fresh(case, bases)
    start = {name: value.clone() for name, value in trained(resumed).items()}
    run(resumed, case, 6, tmp_path / "parts")
    for name, value in trained(whole).items():
        assert torch.equal(trained(resumed)[name], value), name
    assert any(not torch.equal(start[name], value) for name, value in trained(whole).items())


@pytest.mark.parametrize("case", ADDITIONS)
def test_only_the_addition_moves_and_what_is_written_is_what_was_trained(
    case: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases[CASES[case][0]]
    model = fresh(case, bases)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    original = load_base(base)
    with torch.no_grad():
        plain = original(PROBE).logits
        if case.partition(",")[0] not in ("prompt", "prefix", "p-tuning"):  # learned vectors cannot be nothing
            assert torch.allclose(model.eval()(PROBE).logits, plain, atol=1e-5)
    run(model, case, 4, tmp_path / "store")
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert moved and moved <= set(trained(model))
    folder = tmp_path / "adapter"
    assert export_adapter(model, base, "Model/pretrain-abc", folder, PROBE) <= 1e-4
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "Model/pretrain-abc"
    assert str(base) not in "".join(path.read_text(errors="replace") for path in folder.iterdir())
    with torch.no_grad():
        loaded = (
            peft.PeftModel.from_pretrained(load_base(base), folder)
            if CASES[case][2]
            else load_adapter(load_base(base), folder)
        )
        adapted = model.eval()(PROBE).logits
        assert torch.allclose(loaded.eval()(PROBE).logits, adapted, atol=1e-4)
        assert not torch.allclose(adapted[:, -plain.shape[1] :], plain, atol=1e-4)
        with without_addition(model) as same:
            assert same
            assert torch.allclose(model(PROBE).logits, plain, atol=1e-5)


@pytest.mark.parametrize("case", ["lora", "rslora", "dora", "ia3"])
def test_the_merged_model_is_the_adapter_on_its_base(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = bases[CASES[case][0]]
    model = fresh(case, bases)
    run(model, case, 4, tmp_path / "store")
    export_adapter(model, base, "Model/x", tmp_path / "adapter", PROBE)
    assert merge_folders(tmp_path / "adapter", base, tmp_path / "merged") <= 1e-4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert not isinstance(merged, peft.PeftModel)
    with torch.no_grad():
        expected = model.eval()(PROBE).logits
        assert torch.allclose(merged(PROBE).logits, expected, atol=1e-4)
        assert not torch.allclose(load_base(base).eval()(PROBE).logits, expected, atol=1e-3)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_a_prompt_begins_with_the_embeddings_of_its_text(bases: dict[str, Path]) -> None:
    from pipelines.finetune.load import load_tokenizer

    config = FinetuneConfig(method="prompt", virtual_tokens=4, prompt_text="words")
    model = adapt(load_base(bases["llama"]), config, bases["llama"])
    ids = load_tokenizer(bases["llama"])("words").input_ids
    repeated = torch.tensor((ids * 4)[:4])  # peft repeats a text that is shorter than the prompt
    (found,) = trained(model).values()
    assert torch.equal(found, load_base(bases["llama"]).get_input_embeddings()(repeated))


@pytest.mark.parametrize(
    ("case", "reason"), [("prompt", "vectors in front of the text"), ("adapter", "layers of their own")]
)
def test_what_cannot_be_merged_says_why(case: str, reason: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases[CASES[case][0]]
    export_adapter(fresh(case, bases), base, "Model/x", tmp_path / "adapter", PROBE)
    with pytest.raises(UserError, match=rf"cannot be merged: .*{reason}"):
        merge_folders(tmp_path / "adapter", base, tmp_path / "merged")
    with pytest.raises(UserError, match=r"holds no readable adapter_config.json"):
        merge_folders(base, base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_target_modules_that_match_nothing_are_named(method: str, bases: dict[str, Path]) -> None:
    config = FinetuneConfig(method=method, target_modules=("q_proj", "query", "kv"))
    with pytest.raises(UserError, match=r"finetune.target_modules: query, kv matches nothing in the model") as caught:
        adapt(load_base(bases["llama"]), config)
    assert "its layers have down_proj, gate_proj" in caught.value.next_step


def test_target_modules_that_are_no_matrices_are_said(bases: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"finetune.target_modules: lora does not fit the model: .*LlamaMLP") as caught:
        adapt(load_base(bases["llama"]), FinetuneConfig(method="lora", target_modules=("mlp",)))
    assert "its layers have down_proj, gate_proj" in caught.value.next_step


@pytest.mark.parametrize(("named", "other"), [("lm_head", "embed_tokens"), ("embed_tokens", "lm_head")])
def test_a_matrix_that_is_two_parts_takes_no_adapter(named: str, other: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    for tied in (True, False):
        LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=tied, **sizes)).save_pretrained(tmp_path / "m")
        config = FinetuneConfig(target_modules=("q_proj", named), workers=1)
        if tied:
            with pytest.raises(UserError, match=rf"target_modules: {named} and {other} of this model are one matrix"):
                adapt(load_base(tmp_path / "m"), config)
        else:
            assert isinstance(adapt(load_base(tmp_path / "m"), config), peft.PeftModel)
    # One that was made elsewhere is not merged either.
    LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=True, **sizes)).save_pretrained(tmp_path / "m")
    foreign = peft.get_peft_model(load_base(tmp_path / "m"), peft.LoraConfig(target_modules=[named], **COMMON))
    foreign.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=f"{named} and {other} of this model are one matrix"):
        merge_folders(tmp_path / "adapter", tmp_path / "m", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_dora_on_rows_of_zeros_is_refused(bases: dict[str, Path]) -> None:
    """As padded heads have them: their direction is nothing divided by nothing."""
    base = load_base(bases["llama"])
    with torch.no_grad():
        base.model.layers[1].self_attn.k_proj.weight[3] = 0.0
    with pytest.raises(UserError, match="dora learns the direction of every row, and k_proj of this model have rows"):
        adapt(base, FinetuneConfig(method="lora", dora=True))
    base = load_base(bases["llama"])
    with torch.no_grad():
        base.model.layers[1].self_attn.k_proj.weight[3] = 0.0
    model = adapt(base, FinetuneConfig(method="lora", dora=True, target_modules=("q_proj", "o_proj")))
    assert bool(model(PROBE).logits.isfinite().all())


def test_several_adapters_are_put_on_one_base(bases: dict[str, Path], tmp_path: Path) -> None:
    """As peft has them, of one family: each answers as it did alone, and the base as it was."""
    alone = {}
    for case in ("lora", "dora"):
        model = fresh(case, bases)
        run(model, case, 3, tmp_path / "store" / case)
        export_adapter(model, bases["llama"], "Model/x", tmp_path / case, PROBE)
        with torch.no_grad():
            alone[case] = model.eval()(PROBE).logits
    together = peft.PeftModel.from_pretrained(load_base(bases["llama"]), tmp_path / "lora", "lora")
    together.load_adapter(tmp_path / "dora", "dora")
    together.eval()
    with torch.no_grad():
        for case in ("dora", "lora"):
            together.set_adapter(case)
            assert torch.allclose(together(PROBE).logits, alone[case], atol=1e-5), case
        with together.disable_adapter():
            assert torch.allclose(together(PROBE).logits, load_base(bases["llama"]).eval()(PROBE).logits, atol=1e-5)
    assert not torch.allclose(alone["lora"], alone["dora"], atol=1e-3)


def test_an_adapter_of_another_model_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    for case in ("lora", "adapter"):
        export_adapter(fresh(case, bases), bases["llama"], "Model/x", tmp_path / case, PROBE)
    with pytest.raises(UserError, match="the adapter does not fit the model"):
        load_adapter(load_base(bases["gpt2"]), tmp_path / "lora")


@pytest.mark.parametrize("case", ["adapter", "prompt"])
def test_evaluation_loads_what_was_written(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    from evals.scorer import load_model

    model = fresh(case, bases)
    run(model, case, 2, tmp_path / "store")
    export_adapter(model, bases["llama"], "Model/x", tmp_path / "adapter", PROBE)
    with torch.no_grad():
        loaded = load_model(bases["llama"], tmp_path / "adapter")
        assert torch.allclose(loaded(PROBE).logits, model.eval()(PROBE).logits, atol=1e-4)
