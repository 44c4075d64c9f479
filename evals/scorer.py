"""A model that scores token sequences: loaded once in a Ray actor, then asked batch after batch.

The arithmetic is that of lm-eval's ``hf`` backend (``HFLM._loglikelihood_tokens``): same padding, same order of
operations, one thread, so that the same batches give the same bits.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import UserError
from cluster.store import Store
from evals.answers import AnswerBook
from evals.offline import ENVIRONMENT as OFFLINE
from evals.own_model import load_adapter, load_own_model, read_own
from evals.sources import Source
from evals.tokenizer import assisted_generation_left_out, load_tokenizer

if TYPE_CHECKING:
    import torch


class Group(NamedTuple):
    """One sequence to run and the continuations to read off it.

    Attributes:
        inputs: what the model reads: context and longest continuation without its last token.
        continuations: what to score, each predicted at the last positions of the sequence.
        tasks: which tasks ask, each with its version; for the key under which the answer is kept.
    """

    inputs: list[int]
    continuations: list[list[int]]
    tasks: tuple[str, ...] = ()


class SharedBatch(NamedTuple):
    """A batch whose sequences have their first ``prefix`` tokens in common. No continuation is read off these."""

    prefix: int
    groups: list[Group]


class Prompt(NamedTuple):
    """A text to continue.

    Attributes:
        settings: lm-eval's ``generation_kwargs``: ``until``, ``max_gen_toks``, sampling.
        tokens: its length.
        task: which task asks, with its version.
    """

    context: str
    settings: dict[str, Any]
    tokens: int
    task: str = ""

    @property
    def args(self) -> tuple[str, dict[str, Any]]:
        """The two things that lm-eval's backends read of a request."""
        return self.context, self.settings


FEWEST_ROWS = 64
"""Logits of at least so many positions are computed at once: of fewer than 16 a matrix product may take another path
through the library, and give other last bits than those of the whole sequence that lm-eval computes."""

Answer = tuple[float, bool]
"""Sum of log-probabilities (natural logarithm), and whether greedy decoding gives this continuation."""


class Scorer:
    """The actor. One CPU thread, so that a result does not depend on how many cores a machine has."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokenizer: Any = None
        self._generator: Any = None
        self._sharing: Any = None

    def load(self) -> None:
        """Load the model. A call of its own, because an error in an actor's constructor reaches nobody as itself."""
        os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **OFFLINE})
        import torch

        torch.set_num_threads(1)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base, adapter = self._source.folders()
        with assisted_generation_left_out():
            self._model = load_model(self._base, adapter).to(self._device)
        self._takes = set(inspect.signature(self._model.forward).parameters)

    def answer(self, method: str, batches: list[Any], keys: list[str], book: AnswerBook | None) -> list[Any]:
        """A chunk of batches, answered by :meth:`score` or :meth:`generate`, and kept before anybody is told."""
        answers = getattr(self, method)(batches)
        if book is not None:
            book.keep(dict(zip(keys, answers, strict=True)))
        return list(answers)

    def score(self, batches: list[list[Group]]) -> list[list[list[Answer]]]:
        """Answers in the shape of the question: batch, group, continuation."""
        return [self._score_batch(batch) for batch in batches]

    def generate(self, batches: list[list[Prompt]]) -> list[list[str]]:
        """What the model writes after each prompt, by lm-eval's ``hf`` backend itself."""
        if self._generator is None:
            from lm_eval.models.huggingface import HFLM

            tokenizer = load_tokenizer(self._base)
            self._generator = HFLM(pretrained=self._model, tokenizer=tokenizer, batch_size=len(batches[0]))
        texts = []
        for batch in batches:
            self._generator.batch_size_per_gpu = len(batch)
            texts.append(list(self._generator.generate_until(batch, disable_tqdm=True)))
        return texts

    def _score_batch(self, batch: list[Group]) -> list[list[Answer]]:
        import torch

        padded = pad(batch)
        kept = min(padded.shape[1], max(positions_read(batch), math.ceil(FEWEST_ROWS / len(batch))))
        options = {"use_cache": False, "logits_to_keep": kept}
        with torch.inference_mode():
            logits = self._model(
                padded.to(self._device), **{name: value for name, value in options.items() if name in self._takes}
            ).logits
            return read_answers(logits, batch)

    def why_not_shared(self) -> str:
        """Why this model cannot :meth:`score_shared`; empty where it can."""
        from evals.prefix_scoring import why_not_shared

        return why_not_shared(self._model, self._device)

    def score_shared(self, batches: list[SharedBatch]) -> list[list[list[Answer]]]:
        """As :meth:`score`, with what a batch's sequences have in common computed once."""
        from evals.prefix_scoring import PrefixScorer

        if self._sharing is None:
            self._sharing = PrefixScorer(self._model, self._device)
        return [self._sharing.score(batch) for batch in batches]

    def takes_rows(self) -> bool:
        """Whether this model, which can :meth:`score_shared`, can :meth:`score_rows`."""
        from evals.row_scoring import takes_rows

        return takes_rows(self._model, self._device)

    def score_rows(self, batches: list[list[SharedBatch]]) -> list[list[list[Answer]]]:
        """As :meth:`score_shared`, each run one row."""
        from evals.row_scoring import score_rows

        return [score_rows(self._model, batch, self._device) for batch in batches]

    def count_tokens(self, store: Store, key: str, row_groups: list[int]) -> dict[int, int]:
        """See :func:`count_tokens`."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._base)
        return count_tokens(self._tokenizer, store, key, row_groups)


def pad(groups: list[Group]) -> torch.Tensor:
    """Their inputs, one a row, filled up with zeros on the right."""
    import torch

    width = max(len(group.inputs) for group in groups)
    return torch.tensor([group.inputs + [0] * (width - len(group.inputs)) for group in groups])


def positions_read(groups: list[Group]) -> int:
    """The last so many positions of the padded rows hold everything that continuations are read off.

    They are at the ends of their sequences, so logits of what lies before them all are not computed.
    """
    width = max(len(group.inputs) for group in groups)
    return max(width - len(group.inputs) + max(map(len, group.continuations)) for group in groups)


def read_answers(logits: torch.Tensor, groups: list[Group], rows: Sequence[int] | None = None) -> list[list[Answer]]:
    """Answers by group and continuation.

    Args:
        logits: (rows, positions, vocabulary), the last positions of the padded rows.
        rows: of each group, the row that begins with its sequence; by default each has its own.
    """
    import torch

    added = logits.shape[1] - max(len(group.inputs) for group in groups)
    # Below 0: positions left out; above: the virtual tokens of prompt tuning.
    answers = []
    for group, row in zip(groups, range(len(groups)) if rows is None else rows, strict=True):
        end = len(group.inputs) + added
        length = max(map(len, group.continuations))
        rows = torch.log_softmax(logits[row][end - length : end], dim=-1)
        answers.append([read_answer(rows, tokens) for tokens in group.continuations])
    return answers


def read_answer(rows: torch.Tensor, continuation: list[int]) -> Answer:
    """The answer for one continuation, read off the last of ``rows``: log-probabilities (positions, vocabulary)."""
    import torch

    rows = rows[len(rows) - len(continuation) :]
    wanted = torch.tensor(continuation, dtype=torch.long, device=rows.device)
    chosen = torch.gather(rows.unsqueeze(0), 2, wanted.view(1, -1, 1)).squeeze(-1)
    return float(chosen.sum()), bool((rows.argmax(dim=-1) == wanted).all())


def count_tokens(tokenizer: Any, store: Store, key: str, row_groups: list[int]) -> dict[int, int]:
    """Token -> how often it stands in the ``text`` column of a Parquet file's row groups."""
    from collections import Counter

    import pyarrow.parquet as pq

    filesystem, path = store.arrow(key)
    counts: Counter[int] = Counter()
    with filesystem.open_input_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256, row_groups=row_groups, columns=["text"]):
            texts = batch.column("text").to_pylist()
            for tokens in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
                counts.update(tokens)
    return dict(counts)


def load_model(base: Path, adapter: Path | None) -> Any:
    """A causal language model in its stored precision, with its adapter, ready to be asked.

    Raises:
        UserError: the folder does not hold such a model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    own = read_own(base)
    if own is not None and adapter is None:
        return load_own_model(base, own).eval()
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
        if adapter is not None:
            model = load_adapter(model, adapter)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"cannot be loaded as a causal language model: {str(error).splitlines()[0]}",
            where=str(adapter or base),
            next_step="check the artifact with `raymill verify`",
        ) from error
    return model.eval()
