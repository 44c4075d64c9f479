"""A tiny chat model with an adapter, fake engines, and one Ray with one real engine for the whole session."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXT = "return the path of the file as a string. the function takes one argument, a list of names. " * 20


@dataclass(frozen=True)
class TinyModels:
    """Folders of a random Llama that vLLM serves, and of LoRA adapters on it.

    Attributes:
        adapter: changes what it says (rank 4).
        second: changes it to something else (rank 4).
        large: an adapter of rank 32.
        foreign: an adapter for a model of another width.
    """

    base: Path
    adapter: Path
    second: Path
    large: Path
    foreign: Path


def build_tiny_models(folder: Path) -> TinyModels:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    base = folder / "base"
    model = tiny_llama(len(fast), width=64)
    model.save_pretrained(base)
    fast.save_pretrained(base)
    ranks = {"adapter": 4, "second": 4, "large": 32}
    for seed, (name, rank) in enumerate(ranks.items()):
        save_adapter(base, tiny_llama(len(fast), width=64), rank, seed, folder / name)
    save_adapter(base, tiny_llama(len(fast), width=128), 4, 9, folder / "foreign")
    return TinyModels(base, *(folder / name for name in (*ranks, "foreign")))


def tiny_llama(vocabulary: int, width: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def save_adapter(base: Path, model: Any, rank: int, seed: int, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    lora = get_peft_model(model, LoraConfig(r=rank, lora_alpha=64, target_modules=["q_proj", "v_proj", "o_proj"]))
    lora.peft_config["default"].base_model_name_or_path = str(base)
    torch.manual_seed(seed)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    lora.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return build_tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """An embedded Ray for every test that needs one."""
    from cluster.session import ClusterConfig, connect

    with connect(ClusterConfig()):
        yield


@pytest.fixture(scope="session")
def serve_session(ray_session: None) -> None:
    """Ray Serve for deployments of fake engines. Each would otherwise start its own, as in test_nodes, and end it."""
    from serving.control import ray_serve

    ray_serve.start_serve()


@pytest.fixture
def tracker() -> Iterator[object]:
    from cluster.progress import Progress

    with Progress(stream=io.StringIO(), live=False).track("serving") as each:
        yield each


@pytest.fixture
def fake_command() -> list[str]:
    """The command line of an engine that answers like vLLM's server and does no inference."""
    return [sys.executable, str(FAKE_ENGINE)]


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
