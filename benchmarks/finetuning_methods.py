"""What each method of fine-tuning reaches on a real model, and what the model forgets: the table in docs/finetuning.md.

A small model of children's stories (../shared/data/models/stories260K-hd32, or ``--model``) learns the style of plays
(tinyshakespeare, or ``--data``, a text file). Measured: loss on held-out plays before and after, loss on its own
stories before and after (what it forgets; the stories are sampled from it), trained parameters, bytes of what is
written, seconds of training, how vLLM serves it; and the peak memory of three steps on a llama of 58 million
parameters, in a process of its own, above what that had before there was a model. The name of the result is the
method; ``ratio`` is the loss on held-out plays before over after.

    python benchmarks/finetuning_methods.py [--only METHOD …] [--steps N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LENGTH, BATCH = 128, 16
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learning_rate": 1e-3},
    "full, L2-SP 0.1": {"method": "full", "learning_rate": 1e-3, "l2_sp": 0.1},
    "full, layer decay 0.5": {"method": "full", "learning_rate": 1e-3, "layer_decay": 0.5},
    "full, unfreezing": {"method": "full", "learning_rate": 1e-3, "unfreeze_every_steps": 8},
    "lora": {"method": "lora", "learning_rate": 5e-3},
    "rslora": {"method": "lora", "rslora": True, "learning_rate": 2e-3},
    # Without queries, keys and values: the padded heads of the model of stories have rows of zeros there.
    "dora": {
        "method": "lora", "dora": True, "learning_rate": 5e-3,
        "target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    "ia3": {"method": "ia3", "learning_rate": 2e-2},
    "adapter": {"method": "adapter", "learning_rate": 5e-3},
    "prefix": {"method": "prefix", "learning_rate": 3e-2},
    "p-tuning": {"method": "p-tuning", "learning_rate": 5e-3, "encoder_hidden": 64},
    "prompt": {"method": "prompt", "learning_rate": 1e-1},
}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What a method reached; losses in nats a token."""

    before: float
    after: float
    own_before: float
    own_after: float
    trained_parameters: int
    written_bytes: int
    seconds: float

    @property
    def gained(self) -> float:
        """How much lower the loss on held-out text became."""
        return self.before - self.after

    @property
    def forgotten(self) -> float:
        """How much higher the loss on the model's own domain became."""
        return self.own_after - self.own_before


def write_data(model: Path, text: Path, folder: Path, pieces: int = 1200) -> tuple[Path, Path]:
    """The new style as JSON lines of texts, and stories that the model itself wrote."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plays = text.read_text(encoding="utf-8")
    new = folder / "plays.jsonl"
    cut = [plays[start : start + 240] for start in range(0, min(len(plays), 240 * pieces), 240)]
    new.write_text("".join(json.dumps({"text": each}) + "\n" for each in cut if each.strip()), encoding="utf-8")
    tokenizer, writer = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(0)
    begin = torch.full((64, 1), tokenizer.bos_token_id)
    written = writer.eval().generate(
        begin, attention_mask=torch.ones_like(begin), do_sample=True, top_k=0, max_new_tokens=100, pad_token_id=0
    )
    stories = [text for row in written if (text := tokenizer.decode(row, skip_special_tokens=True)).strip()]
    own = folder / "stories.jsonl"
    own.write_text("".join(json.dumps({"text": each}) + "\n" for each in stories), encoding="utf-8")
    return new, own


def measure(
    model: Path, new: Path, own: Path, steps: int, settings: dict[str, Any], folder: Path | None = None
) -> Figures:
    """Fine-tune in this process, as a worker does it; ``folder`` keeps what is written."""
    import numpy as np
    import torch

    from cluster.artifact import Artifact, Identity
    from cluster.store import open_store
    from pipelines.finetune.config import FinetuneConfig
    from pipelines.finetune.examples.records import to_jsonl
    from pipelines.finetune.load import load_examples
    from pipelines.finetune.task import FinetuneTask
    from pipelines.train.batches import validation_indices
    from pipelines.train.group import Group
    from pipelines.train.journal import Journal
    from pipelines.train.keeper import Keeper
    from pipelines.train.loop import train

    config = FinetuneConfig.model_validate(
        {
            "data": str(new), "forgetting": str(own), "steps": steps, "batch_sequences": BATCH, "workers": 1,
            "sequence_length": LENGTH, "too_long": "right", "examples_shown": 0, "validation_every_steps": steps,
            "checkpoint_every_steps": steps, **settings,
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        store = open_store(name)
        for path in model.iterdir():
            store.upload(path, f"Model/base-000000000000/try/{path.name}")
        identity = Identity("Model", "base", 1, {}, {})
        base = Artifact(
            kind="Model", name="base", fingerprint="0" * 64, identity=identity.fields(), attempt="try", files=[]
        )
        loaded = load_examples(config, None, store)
        keys = {part: f"examples/{part}" for part in loaded.parts()}
        for part, examples in loaded.parts().items():
            store.write(keys[part], to_jsonl(examples).encode())
        task = FinetuneTask(config, base, keys)
        task.prepare(store)
        training, validation = task.samples()
        torch.manual_seed(config.seed)
        adapted = task.model()
        journal = Journal(store, "journal")
        keeper = Keeper(store, "checkpoints", (), Group(), journal, 2)
        began = time.perf_counter()
        finished, run = train(adapted, training, validation, steps, config, Group(), keeper, "finetune")
        seconds = time.perf_counter() - began
        journal.close()
        from pipelines.train.journal import Follower

        first = next(each for each in Follower(store, "journal").poll() if each["kind"] == "validation")
        folder = folder or Path(name) / "result"
        probe = validation.batch(validation_indices(validation, config)[:2])
        details = task.finish(adapted, folder, probe)
        written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        trained = sum(each.numel() for each in run.runner.parameters.values())
    assert np.isfinite(finished.validation_loss)
    forgotten = details["forgetting"]
    return Figures(
        float(first["loss"]),
        finished.validation_loss,
        forgotten["before"],
        forgotten["after"],
        trained,
        written,
        seconds,
    )


HEAD = """\
| method | new style, nats a token | its own stories | trained | written, bytes | memory, MiB | seconds | vLLM serves |
|---|---|---|---|---|---|---|---|"""
SERVED = {"adapter": "beside its base", "merge": "merged", "never": "no"}


def served(settings: dict[str, Any]) -> str:
    """How vLLM serves what a method makes of a llama."""
    from pipelines.finetune.config import FinetuneConfig
    from pipelines.servable import adapter_settings
    from serving.engines.adaptable import verdict

    config = FinetuneConfig.model_validate(settings)
    return "a model" if config.makes_model else SERVED[verdict(adapter_settings(config), ["LlamaForCausalLM"]).how]


def row(name: str, found: Figures, peak_bytes: int) -> str:
    """A method's line of the guide's table."""
    return (
        f"| {name} | {found.before:.2f} → {found.after:.2f} | {found.own_before:.2f} → {found.own_after:.2f} | "
        f"{found.trained_parameters:,} | {found.written_bytes:,} | {peak_bytes / 2**20:,.0f} | {found.seconds:.0f} | "
        f"{served(METHODS[name])} |"
    )


def main() -> None:
    """Measure, print a table, end with a line of JSON."""
    shared = Path(os.environ.get("RAYMILL_ANCHORS") or ROOT / ".." / "shared") / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=shared / "models" / "stories260K-hd32")
    parser.add_argument("--data", type=Path, default=shared / "corpora" / "tinyshakespeare" / "input.txt")
    parser.add_argument("--only", nargs="+", choices=sorted(METHODS), default=[])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="twenty steps of LoRA: shows that it runs")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.data):
        if not path.exists():
            parser.error(f"{path} is not there: name a pretrained model with --model and a text with --data")
    import torch

    from benchmarks.finetuning import peak_bytes

    torch.set_num_threads(1)
    names = arguments.only or (["lora"] if arguments.quick else list(METHODS))
    steps = 20 if arguments.quick else arguments.steps
    results = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as name:
        new, own = write_data(arguments.model, arguments.data, Path(name))
        for each in names:
            found = measure(arguments.model, new, own, steps, METHODS[each])
            peak = peak_bytes(METHODS[each])
            results.append(
                {
                    "name": each, "ours": found.after, "peer": "the model before", "peer_value": found.before,
                    "unit": "nats/token", "ratio": found.before / found.after, **asdict(found),
                    "gained": found.gained, "forgotten": found.forgotten, "peak_bytes": peak,
                }
            )  # fmt: skip
            print(row(each, found, peak), flush=True)
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread"
    print(json.dumps({"benchmark": "finetuning_methods", "results": results, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(ROOT)
    main()
