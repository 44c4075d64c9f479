"""What is trained: all weights, or a small addition by the peft library (or :mod:`pipelines.finetune.bottleneck`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cluster.errors import UserError
from pipelines.finetune import bottleneck
from pipelines.finetune.config import FinetuneConfig
from pipelines.train.anatomy import blocks

CAUSAL = "CAUSAL_LM"
STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
"""Types of models whose fused kernels read ``out_proj`` past an adapter: peft refuses it there."""
SECOND_MATRICES = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2", "out_proj", "fc_out")
"""What the second matrix of a feed-forward part is called; IA3 scales what goes into it."""
KEYS_AND_VALUES = ("k_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "key", "value", "Wqkv", "k", "v")
"""What projects keys and values; IA3 scales what comes out (arXiv:2205.05638)."""


def load_base(folder: Path) -> Any:
    """A stored model in fp32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapt(
    base: Any,
    config: FinetuneConfig,
    base_folder: Path | None = None,
    task: str = CAUSAL,
    whole: Sequence[str] = (),
) -> Any:
    """The model as the method trains it: only what is to be trained requires gradients.

    An addition changes nothing at first, except learned vectors in front of the text, which cannot.

    Args:
        task: peft's name of what the model does.
        whole: names of modules that are trained wholly and kept with the addition, such as a fresh head.

    Raises:
        UserError: the model has none of the target modules, or is not built as the method needs, or its weights are
            none that DoRA can be put on.
    """
    if config.method == "full":
        return base
    if config.method == "adapter":
        return bottleneck.add(base, config.bottleneck)
    settings = peft_settings(base, config, base_folder, task, whole)
    try:
        model = get_peft_model(base, settings)
    except (ValueError, AttributeError, NotImplementedError) as error:
        named = config.target_modules is not None
        advice = "choose another method; lora works with every model whose layers have matrices"
        raise UserError(
            f"{config.method} does not fit the model: {str(error).splitlines()[0]}",
            where="finetune.target_modules" if named else "finetune.method",
            next_step=f"its layers have {', '.join(matrices(base)) or 'no matrices'}" if named else advice,
        ) from None
    require_own_weights(model, "finetune.target_modules")
    if config.method == "lora" and config.dora:
        _require_directions(model)
    return model


def require_own_weights(model: nn.Module, where: str) -> None:
    """Raise UserError where an adapter is on a matrix that is also another part's: merged, it would change both."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for each in module.parameters(recurse=False):
            holders.setdefault(id(each), []).append(name)
    for names in holders.values():
        adapted = sorted(name.removesuffix(".base_layer") for name in names if name.endswith(".base_layer"))
        others = sorted(name for name in names if not name.endswith(".base_layer"))
        if adapted and len(names) > 1:
            told = [name.rpartition(".")[2] for name in (adapted[0], *others, *adapted[1:])]
            raise UserError(
                f"{told[0]} and {told[1]} of this model are one matrix, and an adapter on {told[0]} could not be "
                "merged into it",
                where=where,
                next_step="name matrices of the layers, or use method full",
            )


def _require_directions(model: nn.Module) -> None:
    """Raise UserError where DoRA would divide by the length of a row of zeros, as padded heads have them."""
    empty = {
        name.split(".lora_magnitude_vector")[0].rpartition(".")[2]
        for name, each in model.named_parameters()
        if ".lora_magnitude_vector." in name and bool((each == 0).any())
    }
    if empty:
        raise UserError(
            f"dora learns the direction of every row, and {', '.join(sorted(empty))} of this model have rows of zeros",
            where="finetune.dora",
            next_step="set dora: false, or name the other matrices in finetune.target_modules",
        )


def peft_settings(
    base: Any,
    config: FinetuneConfig,
    base_folder: Path | None = None,
    task: str = CAUSAL,
    whole: Sequence[str] = (),
) -> PeftConfig:
    """peft's own configuration of the method; see :func:`adapt`.

    Raises:
        UserError: the model has none of the target modules.
    """
    kept: dict[str, Any] = {"task_type": task, "modules_to_save": list(whole) or None}
    if config.method == "lora":
        return LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_rslora=config.rslora,
            use_dora=config.dora,
            target_modules=target_modules(base, config.target_modules),
            **kept,
        )
    if config.method == "ia3":
        every = target_modules(base, config.target_modules)
        second = SECOND_MATRICES + (("wo",) if {"wi", "wi_0"} & set(every) else ())  # t5's; elsewhere it ends attention
        chosen = every if config.target_modules else [n for n in every if n in KEYS_AND_VALUES + second]
        if not chosen:
            raise UserError(
                f"none of the model's matrices ({', '.join(every)}) is known to make keys, values or end a "
                "feed-forward part",
                where="finetune.target_modules",
                next_step="name those that do",
            )
        return IA3Config(
            target_modules=chosen,
            feedforward_modules=[name for name in chosen if name in second],
            **kept,
        )
    common: dict[str, Any] = {"num_virtual_tokens": config.virtual_tokens, **kept}
    if config.method == "prefix":
        projects = config.encoder_hidden is not None
        return PrefixTuningConfig(**common, prefix_projection=projects, encoder_hidden_size=config.encoder_hidden)
    if config.method == "p-tuning":
        return PromptEncoderConfig(**common, encoder_hidden_size=config.encoder_hidden)
    if config.prompt_text is not None:
        return PromptTuningConfig(
            **common,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=config.prompt_text,
            tokenizer_name_or_path=str(base_folder),
        )
    return PromptTuningConfig(**common)


def matrices(base: nn.Module) -> list[str]:
    """Names (the last part) of the matrices in the model's layers, sorted."""
    found = set()
    for layer in blocks(base):
        for name, module in layer.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                found.add(name.rpartition(".")[2])
    return sorted(found)


def target_modules(base: nn.Module, wanted: tuple[str, ...] | None) -> list[str]:
    """The matrices to adapt: those named, or all of the layers'.

    Raises:
        UserError: a name matches nothing in the model.
    """
    known = matrices(base)
    if wanted is None:
        if base.config.model_type in STATE_SPACE:
            known = [name for name in known if name != "out_proj"]
        if not known:
            raise UserError(
                "the model's layers have no matrices to adapt",
                where="finetune.target_modules",
                next_step="use method full or adapter",
            )
        return known
    modules = [name for name, _ in base.named_modules()]
    missing = [each for each in wanted if not any(n == each or n.endswith(f".{each}") for n in modules)]
    if missing:
        raise UserError(
            f"{', '.join(missing)} matches nothing in the model",
            where="finetune.target_modules",
            next_step=f"its layers have {', '.join(known) or 'no matrices'}",
        )
    return sorted(wanted)


@contextmanager
def without_addition(model: Any) -> Iterator[bool]:
    """The model as it was before training; false where it was trained itself and that is not to be had."""
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield True
    elif bottleneck.is_adapted(model):
        with bottleneck.switched_off(model):
            yield True
    else:
        yield False


def load_adapter(base: Any, folder: Path) -> Any:
    """A base with a stored adapter, in peft's format or that of bottleneck adapters.

    Raises:
        UserError: the folder holds no adapter, or one of another model.
    """
    try:
        if bottleneck.is_stored(folder):
            return bottleneck.load(base, folder)
        return PeftModel.from_pretrained(base, folder)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"the adapter does not fit the model: {str(error).splitlines()[0]}",
            where=str(folder),
            next_step="name the base model that it was trained on",
        ) from None
