"""Fixtures of the evaluation tests: a small set of questions, a tiny random Llama, a curated corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.store import Store, open_store
from evals.official import official_tasks

TEXT = "the sun is a star that gives light and heat to every planet around it while the moon only reflects"
WORDS = TEXT.split(" ")


def sentence(seed: int, length: int = 9) -> str:
    """A short text that depends on the seed alone."""
    return " ".join(WORDS[(seed * 7 + step * (3 + seed % 5)) % len(WORDS)] for step in range(length))


def question_row(dataset: str, config: str, seed: int) -> dict[str, object]:
    """One question in the dataset's schema on the Hub."""
    choices = [sentence(seed * 11 + number, 2 + (seed + number) % 5) for number in range(4)]
    if dataset == "allenai/ai2_arc":
        return {
            "id": f"{config}-{seed}",
            "question": sentence(seed) + "?",
            "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[seed % 4],
        }
    if dataset == "cais/mmlu":
        return {"question": sentence(seed), "subject": config, "choices": choices, "answer": seed % 4}
    if config == "generation":
        return {
            "type": "Adversarial",
            "category": "made up",
            "question": sentence(seed) + "?",
            "best_answer": choices[0],
            "correct_answers": choices[:2],
            "incorrect_answers": choices[2:],
            "source": "nowhere",
        }
    return {
        "question": sentence(seed) + "?",
        "mc1_targets": {"choices": choices, "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": choices, "labels": [1, 1, 0, seed % 2]},
    }


def write_benchmarks(root: Path, suites: tuple[str, ...], rows: int = 3) -> Path:
    """A complete folder in the Hub's layout for the suites, as JSON Lines."""
    configs: dict[str, dict[str, set[str]]] = {}
    for task in official_tasks(suites):
        configs.setdefault(task.dataset, {}).setdefault(task.config, set()).update(task.splits)
    for dataset, by_config in configs.items():
        folder = root / dataset
        folder.mkdir(parents=True)
        header = []
        for config, splits in sorted(by_config.items()):
            header.append(f"- config_name: {config}\n  data_files:")
            for number, split in enumerate(sorted(splits)):
                header.append(f"  - split: {split}\n    path: {config}/{split}-*.jsonl")
                file = folder / config / f"{split}-00000.jsonl"
                file.parent.mkdir(exist_ok=True)
                seeds = range(100 * number + len(config), 100 * number + len(config) + rows)
                lines = [json.dumps(question_row(dataset, config, seed)) for seed in seeds]
                file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(header) + "\n---\nmade up\n", encoding="utf-8")
    return root


def write_model(folder: Path, *, context: int = 256, seed: int = 0) -> Path:
    """A random two-layer Llama and a byte-level BPE of 400 tokens, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(seed) for seed in range(50)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", model_max_length=context
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter whose weights are not zero, so that it changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(folder)
    return folder


def publish(store: Store, kind: str, name: str, source: Path) -> Artifact:
    """An artifact that holds the files of a folder."""
    import shutil

    identity = Identity(kind, name, 1, {"source": source.name}, {})
    with Attempt(store, identity.id) as attempt:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                shutil.copy(path, attempt.path(path.relative_to(source).as_posix()))
        record = Artifact(
            kind=kind,
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


def write_corpus(folder: Path, *, files: int, reverse: bool = False) -> Path:
    """A curated corpus of 40 train and 12 validation documents in so many files a split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, count in (("train", 40), ("validation", 12)):
        rows = [
            {"id": f"{split}-{number:03d}", "text": sentence(number, 5 + 9 * number % 83) + " été"}
            for number in range(count)
        ]
        rows = rows[::-1] if reverse else rows
        (folder / split).mkdir(parents=True)
        for part in range(files):
            pq.write_table(
                pa.Table.from_pylist(rows[part::files]), folder / split / f"part-{part:05d}.parquet", row_group_size=7
            )
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model with a context of 256."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def evals_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store shared by a module's tests."""
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """An embedded Ray for a module's tests, with one thread in this process as well: the stock harness runs here."""
    import torch

    from cluster.session import ClusterConfig, connect

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = dict(os.environ)
    with connect(ClusterConfig()):
        yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)
