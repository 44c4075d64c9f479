"""Stage ``base``: a pretrained Hugging Face model taken into the store, where training, evaluation and serving find it.

From a folder, a Model artifact, or the Hub. Weights are copied as they are (safetensors) or converted to safetensors;
nothing of them is changed, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.artifact import Artifact, find_artifact, local_copy
from cluster.config import StrictModel, execution
from cluster.errors import UserError
from cluster.stage import Outcome, Stage, StageContext
from cluster.store import Store
from pipelines.tokens.existing import ARTIFACT, HUB, KEPT, require_rows, take_tokenizer

STAGE = Stage("base", "Model", 1, "pipelines.models.existing:run", resolve="pipelines.models.existing:resolve")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
DESCRIPTIONS = ("config.json", "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")


class ExistingModelConfig(StrictModel):
    """Which model."""

    source: str = execution(min_length=1, description="a folder, a Model's artifact id, or hf://organisation/name")
    where: str = execution("finetune.model", description="the recipe key that names it")
    causal: bool = Field(True, description="it must predict next tokens (AutoModelForCausalLM); else any model")


def resolve(config: ExistingModelConfig) -> dict[str, Any]:
    """What the source is: an artifact's id, a name on the Hub, or a folder's content.

    Raises:
        UserError: there is no such folder, or it holds no model.
    """
    if config.source.startswith(HUB) or ARTIFACT.fullmatch(config.source):
        return {"source": config.source}
    whole = hashlib.sha256()
    files = model_files(Path(config.source).expanduser(), config)
    with ThreadPoolExecutor(8) as pool:
        for path, digest in zip(files, pool.map(_digest, files), strict=True):
            whole.update(f"{path.name}\0{digest}\n".encode())
    return {"source": f"sha256:{whole.hexdigest()}"}


def model_files(folder: Path, config: ExistingModelConfig) -> list[Path]:
    """The files that make up a model with its tokenizer, by name.

    Raises:
        UserError: it is no folder, or holds no configuration or no weights.
    """
    advice = "name a folder that transformers' save_pretrained wrote, a Model's artifact id, or hf://organisation/name"
    if not folder.is_dir():
        raise UserError("no such folder", where=f"{config.where}: {config.source}", next_step=advice)
    found = {folder / name for name in (*DESCRIPTIONS, *KEPT) if (folder / name).is_file()}
    weights = next((paths for pattern in WEIGHTS if (paths := sorted(folder.glob(pattern)))), [])
    if folder / "config.json" not in found or not weights:
        missing = "config.json" if folder / "config.json" not in found else f"weights ({' or '.join(WEIGHTS)})"
        raise UserError(f"holds no {missing}", where=f"{config.where}: {config.source}", next_step=advice)
    return sorted(found | set(weights))


def run(config: ExistingModelConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Copy the model into the store.

    Raises:
        UserError: it is not there, is no model that predicts next tokens, or has no usable tokenizer of its own.
    """
    folder = locate(config, context.store)
    model_files(folder, config)
    settings = check_causal(folder, config) if config.causal else _settings(folder)
    parent = find_artifact(context.store, config.source) if ARTIFACT.fullmatch(config.source) else None
    with tempfile.TemporaryDirectory(prefix="raymill-base-") as name:
        target = Path(name)
        take_tokenizer(str(folder), context.store, target)
        rows = settings.get("vocab_size") or settings.get("text_config", {}).get("vocab_size")
        if rows:
            require_rows(target, int(rows), f"{config.where}: {config.source}")
        found = [*_weights(folder, target, settings, causal=config.causal), *target.iterdir()]
        size = _parameters(path for path in found if path.suffix == ".safetensors")
        for path in sorted(found):
            context.store.upload(path, context.output.key(path.name))
    return Outcome(
        counts={"parameters": size},
        licences=dict(parent.licences) if parent else {},
        details={"architecture": settings.get("model_type", ""), "source": Path(config.source).name, "external": True},
        parents={"source": parent} if parent else {},
    )


def locate(config: ExistingModelConfig, store: Store) -> Path:
    """A local folder with the model.

    Raises:
        UserError: there is no such folder, artifact or name.
    """
    if ARTIFACT.fullmatch(config.source):
        return local_copy(store, find_artifact(store, config.source))
    if not config.source.startswith(HUB):
        return Path(config.source).expanduser()
    from huggingface_hub import snapshot_download

    name, _, revision = config.source.removeprefix(HUB).partition("@")
    try:
        wanted = [*DESCRIPTIONS, *KEPT, WEIGHTS[0]]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be had from the Hub: {str(error).splitlines()[0]}",
            where=f"{config.where}: {config.source}",
            next_step="check the name and the network, or name a folder",
        ) from error


def describe_in(folder: Path, target: Path, store: Store) -> None:
    """Put a model's tokenizer and descriptions into another folder as the stage takes them, without its weights.

    Raises:
        UserError: it has no usable tokenizer of its own.
    """
    take_tokenizer(str(folder), store, target)
    for name in DESCRIPTIONS[:2]:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def check_causal(folder: Path, config: ExistingModelConfig) -> dict[str, Any]:
    """The model's settings.

    Raises:
        UserError: transformers does not know its type, or that type does not predict next tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = _settings(folder)
    try:
        known = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"transformers cannot read it: {str(error).splitlines()[0]}",
            where=f"{config.where}: {config.source}",
            next_step="models that need code of their own must be converted to a type that transformers knows",
        ) from error
    named = settings.get("architectures") or []
    if known.is_encoder_decoder:
        raise UserError(
            f"a model of the type {settings.get('model_type')} has an encoder and a decoder; it does not predict next "
            "tokens",
            where=f"{config.where}: {config.source}",
            next_step="name a causal language model such as llama, gpt2 or qwen; fine-tuning takes encoder-decoders "
            "with task: seq2seq",
        )
    if type(known) not in AutoModelForCausalLM._model_mapping or any("ForMaskedLM" in each for each in named):
        raise UserError(
            f"a model of the type {settings.get('model_type')} ({', '.join(named) or 'no class named'}) does not "
            "predict next tokens",
            where=f"{config.where}: {config.source}",
            next_step="name a causal language model such as llama, gpt2 or qwen",
        )
    return settings


def _settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _weights(folder: Path, target: Path, settings: Mapping[str, Any], *, causal: bool) -> list[Path]:
    """Files to take besides the tokenizer's; weights that are not safetensors are converted into ``target``."""
    described = [folder / name for name in DESCRIPTIONS[:3] if (folder / name).is_file()]
    tensors = sorted(folder.glob(WEIGHTS[0]))
    if tensors:
        return [*described, *tensors]
    import transformers

    named = settings.get("architectures") or []  # the class that they were written by: other classes leave parts out
    own = getattr(transformers, str(named[0]), None) if named and not causal else None
    loader: Any = own or (transformers.AutoModelForCausalLM if causal else transformers.AutoModel)
    loader.from_pretrained(folder, dtype="auto").save_pretrained(target, safe_serialization=True)
    return []


def _parameters(paths: Iterable[Path]) -> int:
    """Numbers in files of safetensors, by their headers."""
    from safetensors import safe_open

    count = 0
    for path in paths:
        with safe_open(path, framework="np") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
