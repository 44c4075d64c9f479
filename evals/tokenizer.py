"""The tokenizer beside a model, and the model's longest sequence, without the seconds that transformers takes to be
imported whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.errors import UserError
from evals.own_model import read_own

PLAIN_CLASSES = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})
"""Names in ``tokenizer_config.json`` that say: all there is to know stands in ``tokenizer.json``."""

PLAIN_MODELS = frozenset({"llama"})
"""Model types (Raymill trains these) of which ``AutoTokenizer`` believes that class; of some it knows better."""

FILES = ("tokenizer*", "vocab*", "spiece.model", "*.tiktoken", "tekken.json", "merges.txt")
NEXT_STEP = "put tokenizer.json and tokenizer_config.json beside the model"
LENGTH = "max_position_embeddings"


def require_tokenizer(base: Path) -> None:
    """Refuse a folder in which no tokenizer can be, before anything is started for it.

    Raises:
        UserError: none of the files that tokenizers are kept in is there.
    """
    if not any(found for pattern in FILES for found in base.glob(pattern)):
        raise UserError("has no tokenizer: none of its files is there", where=str(base), next_step=NEXT_STEP)


def load_tokenizer(base: Path) -> Any:
    """The tokenizer beside a model, as ``AutoTokenizer`` gives it.

    ``AutoTokenizer`` imports torch and all of generation before it has looked into the folder: five seconds of
    processor time in the process that has to ask the questions.

    Raises:
        UserError: there is none.
    """
    try:
        if _is_plain(base):
            from transformers.tokenization_utils_tokenizers import TokenizersBackend

            return TokenizersBackend.from_pretrained(base, local_files_only=True)
        with assisted_generation_left_out():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"has no tokenizer that can be loaded: {str(error).splitlines()[0]}",
            where=str(base),
            next_step=NEXT_STEP,
        ) from error


def longest_sequence(base: Path, tokenizer: Any) -> int:
    """A model's context in tokens, as lm-eval's ``hf`` backend finds it."""
    from lm_eval.models.utils import resolve_max_length

    settings: Any = read_own(base)
    told = _read(base / "config.json")
    if settings is None and told.get("model_type") in PLAIN_MODELS and isinstance(told.get(LENGTH), int):
        settings = SimpleNamespace(**{LENGTH: told[LENGTH]})
    if settings is None:
        from transformers import AutoConfig

        settings = AutoConfig.from_pretrained(base, local_files_only=True)
    return int(resolve_max_length(settings, tokenizer))


def _is_plain(base: Path) -> bool:
    told, model = (_read(base / name) for name in ("tokenizer_config.json", "config.json"))
    return (
        told.get("tokenizer_class") in PLAIN_CLASSES
        and "auto_map" not in told
        and model.get("model_type") in PLAIN_MODELS
        and (base / "tokenizer.json").is_file()
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # AutoTokenizer says what is wrong
    return found if isinstance(found, dict) else {}


@contextmanager
def assisted_generation_left_out() -> Iterator[None]:
    """Inside, transformers is imported as where scikit-learn is not installed.

    It wants that, and SciPy with it, for one way of assisted generation alone, which no evaluation uses: a third of
    what an actor does before it has its model.
    """
    import transformers.utils

    before = transformers.utils.is_sklearn_available
    transformers.utils.is_sklearn_available = lambda: False
    try:
        yield
    finally:
        transformers.utils.is_sklearn_available = before
