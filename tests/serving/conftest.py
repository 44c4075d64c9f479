"""A tiny chat model with an adapter, fake engines, and one Ray with one real engine for the whole session."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXT = "return the path of the file as a string. the function takes one argument, a list of names. " * 20


@dataclass(frozen=True)
class TinyModels:
    """Folders of a random Llama that vLLM serves, and of a LoRA adapter that changes what it says."""

    base: Path
    adapter: Path


def build_tiny_models(folder: Path) -> TinyModels:
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    base, adapter = folder / "base", folder / "adapter"
    model.save_pretrained(base)
    fast.save_pretrained(base)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "o_proj"]))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    lora.save_pretrained(adapter)
    fast.save_pretrained(adapter)
    return TinyModels(base, adapter)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return build_tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """An embedded Ray for every test that needs one."""
    from cluster.session import ClusterConfig, connect

    with connect(ClusterConfig()):
        yield


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
