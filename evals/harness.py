"""lm-eval's view of a model on the cluster: requests in, log-likelihoods out, with the ``hf`` backend's own results.

``evaluate()`` stays in the driver. Requests are sorted, grouped by context and cut into batches here, exactly as
lm-eval's ``Collator`` does for one process; whole batches go to the actors. So a batch holds the same sequences,
padded to the same width, whichever actor gets it, and scores are equal to the stock harness bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cluster.errors import UserError
from cluster.progress import Tracker
from evals.own_model import read_own
from evals.pool import ScorerPool
from evals.scorer import Answer, Group, load_tokenizer

TokenRequest = tuple[Any, list[int], list[int]]
"""(the texts, or None; context tokens; continuation tokens), lm-eval's own shape."""


class ClusterLM(TemplateLM):
    """A causal language model behind a :class:`ScorerPool`.

    Attributes:
        requests: how many continuations were scored so far.
        truncated: how many of them lost the beginning of their context.
    """

    def __init__(self, base: Path, pool: ScorerPool, batch_size: int, tracker: Tracker) -> None:
        from transformers import AutoConfig

        super().__init__()
        self.tokenizer = load_tokenizer(base)
        self.batch_size = batch_size
        settings = read_own(base) or AutoConfig.from_pretrained(base, local_files_only=True)
        self.max_length = resolve_max_length(settings, self.tokenizer)
        self.requests = self.truncated = 0
        self._pool = pool
        self._tracker = tracker
        self._prefix = self.tokenizer.decode(self.prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on: beginning of text, else end of text."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_options: Any) -> list[int]:
        """Tokens of a text, with the tokenizer's own special tokens unless told otherwise or already there."""
        if add_special_tokens is None and has_bos_prefix(string, self._prefix):
            add_special_tokens = False
        options: dict[str, Any] = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, verbose=False, **options))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        """Log-likelihood of each continuation after its context; progress goes to the tracker."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts; see :meth:`rolling_tokens`."""
        return self.rolling_tokens([self.tok_encode(request.args[0]) for request in requests])

    def rolling_tokens(self, documents: list[list[int]], label: str = "texts") -> list[float]:
        """Log-likelihood of each document's tokens (natural logarithm), every token predicted once.

        A document longer than the context is cut into windows as lm-eval cuts them: the first starts from the
        beginning-of-text token, each later one from the token before it, and the last reaches back to fill the
        context and scores only what is left.
        """
        windows = [
            (number, window)
            for number, tokens in enumerate(documents)
            for window in map(
                make_disjoint_window, get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            )
        ]
        answers = self._loglikelihood_tokens([(None, *window) for _, window in windows], label=label)
        totals = [0.0] * len(documents)
        for (number, _), (log_probability, _) in zip(windows, answers, strict=True):
            totals[number] += log_probability
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Generation is not asked of this backend: every suite it offers is scored by likelihood."""
        raise UserError(
            "asks for generated text, and this backend scores likelihoods only",
            where=f"evals.suites: {requests[0].task_name}" if requests else "evals.suites",
            next_step="leave the task out of evals.suites",
        )

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], label: str = "requests", **_options: Any
    ) -> list[Answer]:
        for _, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise UserError(
                    f"an answer of {len(continuation)} tokens does not fit the model's context of {self.max_length}",
                    where="evals.suites",
                    next_step="evaluate a model with a longer context (tokens.sequence_length), or leave the task out",
                )
            self.truncated += len(context) + len(continuation) > self.max_length + 1
        self.requests += len(requests)
        groups = _group(requests)
        batches = [
            [self._wire(requests, members) for members in groups[start : start + self.batch_size]]
            for start in range(0, len(groups), self.batch_size)
        ]
        with self._tracker.step(f"scoring {label}", total=len(requests), unit=label) as progress:
            answered = self._pool.score(batches, lambda done: progress.update(advance=done))
        results: list[Answer | None] = [None] * len(requests)
        by_group = (answers for batch in answered for answers in batch)
        for members, answers in zip(groups, by_group, strict=True):
            for index, answer in zip(members, answers, strict=True):
                results[index] = answer
        return [answer for answer in results if answer is not None]

    def _wire(self, requests: list[TokenRequest], members: list[int]) -> Group:
        longest = max(members, key=lambda index: len(requests[index][2]))
        whole = requests[longest][1] + requests[longest][2]
        # A sequence that is too long loses its beginning; its last token is only ever predicted.
        return Group(whole[-(self.max_length + 1) :][:-1], [requests[index][2] for index in members])


def _group(requests: list[TokenRequest]) -> list[list[int]]:
    """Indices of requests that one sequence answers (they differ in the last token only), longest sequences first.

    The order is that of lm-eval's ``Collator`` with ``group_by="contexts"``: by length, then by the tokens of each
    group's longest continuation.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for index, (_, context, continuation) in enumerate(requests):
        found.setdefault((*context, *continuation[:-1]), []).append(index)

    def order(members: list[int]) -> tuple[int, list[int]]:
        longest = max(members, key=lambda index: len(requests[index][2]))
        tokens = requests[longest][1] + requests[longest][2]
        return -len(tokens), tokens

    return sorted(found.values(), key=order)
