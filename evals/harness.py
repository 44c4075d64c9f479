"""lm-eval's view of a model on the cluster: requests in, log-likelihoods out, with the ``hf`` backend's own results.

``evaluate()`` stays in the driver. Requests are sorted, grouped by context and cut into batches here, exactly as
lm-eval's ``Collator`` does for one process; whole batches go to the actors. So a batch holds the same sequences,
padded to the same width, whichever actor gets it, and scores are equal to the stock harness bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import Collator, has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cluster.errors import UserError
from cluster.progress import Tracker
from evals.encoding import encode_pairs, encode_texts
from evals.endpoint import EndpointPool
from evals.pool import ScorerPool
from evals.scorer import Answer, Group, Prompt
from evals.sharing import Sharing
from evals.tokenizer import load_tokenizer, longest_sequence
from evals.usage import Meter

DEFAULT_NEW_TOKENS = 256
"""lm-eval's ``hf`` backend generates so many where a task does not say."""

TokenRequest = tuple[Any, list[int], list[int]]
"""(the task that asks, with its version, or None; context tokens; continuation tokens), in lm-eval's shape."""


class ClusterLM(TemplateLM):
    """A causal language model behind a :class:`ScorerPool`.

    Args:
        base: the folder of its tokenizer, and of the model unless ``max_length`` is given.
        max_length: the longest sequence, in tokens.
        share_prefixes: compute what prompts begin with in common once, where the model can; answers are then lm-eval's
            within 1e-4, and not to the bit. For a :class:`ScorerPool`.

    Attributes:
        requests: how many continuations were scored, and texts generated, so far.
        truncated: how many of them lost the beginning of their context.
        truncated_by_task: the same by task.
        versions: task -> its version; answers are kept by both.
        unanswered: (task, number of the question) of requests that an endpoint did not answer.
        usage: time and tokens so far, by task.
        sharing: what ``share_prefixes`` has come to so far; None without it.
    """

    def __init__(
        self,
        base: Path,
        pool: ScorerPool | EndpointPool,
        batch_size: int,
        tracker: Tracker,
        max_length: int | None = None,
        share_prefixes: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = load_tokenizer(base)
        self.batch_size = batch_size
        if max_length is None:  # else the folder may hold a tokenizer alone, as that of an endpoint does
            max_length = longest_sequence(base, self.tokenizer)
        self.max_length: int = max_length
        self.requests = self.truncated = 0
        self.truncated_by_task: Counter[str] = Counter()
        self.versions: dict[str, str] = {}
        self.unanswered: set[tuple[str, int]] = set()
        self.usage = Meter()
        self.sharing = Sharing(pool, tracker, batch_size, max_length) if share_prefixes else None  # type: ignore[arg-type]
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

    def begins_special(self, text: str) -> bool:
        """Whether a text brings its beginning-of-text token along."""
        return bool(has_bos_prefix(text, self._prefix))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        """Log-likelihood of each continuation after its context; progress goes to the tracker."""
        with self._tracker.step("encoding requests", total=len(requests), unit="requests") as progress:
            pairs = encode_pairs(self, [request.args for request in requests])
            progress.update(len(requests))
        tokens = [(self._asker(request), *pair) for request, pair in zip(requests, pairs, strict=True)]
        answers = self._loglikelihood_tokens(tokens)
        return [self._or_placeholder(*each, (-1.0, False)) for each in zip(requests, answers, strict=True)]

    def _or_placeholder(self, request: Any, answer: Any, placeholder: Any) -> Any:
        if answer is None:
            self.unanswered.add((request.task_name, request.doc_id))
            return placeholder
        return answer

    def _asker(self, request: Any) -> str:
        return f"{request.task_name}@{self.versions.get(request.task_name, '')}"

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts; see :meth:`rolling_tokens`."""
        documents = [self.tok_encode(request.args[0]) for request in requests]
        answers = self.rolling_tokens(documents, of=[request.task_name for request in requests])
        return [self._or_placeholder(*each, -1.0) for each in zip(requests, answers, strict=True)]

    def rolling_tokens(
        self, documents: list[list[int]], label: str = "texts", of: Sequence[str] | None = None
    ) -> list[float | None]:
        """Log-likelihood of each document's tokens (natural logarithm), every token predicted once.

        None for a document of which an endpoint did not answer every window.

        A document longer than the context is cut into windows as lm-eval cuts them: the first starts from the
        beginning-of-text token, each later one from the token before it, and the last reaches back to fill the
        context and scores only what is left.

        Args:
            of: in whose account each document is; by default all are in that of ``label``.
        """
        windows = [
            (number, window)
            for number, tokens in enumerate(documents)
            for window in map(
                make_disjoint_window, get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            )
        ]
        payers = [label if of is None else of[number] for number, _ in windows]
        answers = self._loglikelihood_tokens([(None, *window) for _, window in windows], label=label, payers=payers)
        totals: list[float | None] = [0.0] * len(documents)
        for (number, _), answer in zip(windows, answers, strict=True):
            so_far = totals[number]
            totals[number] = so_far + answer[0] if so_far is not None and answer is not None else None
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each prompt, in the order and the batches of lm-eval's ``hf`` backend."""
        prompts = []
        for request, tokens in zip(requests, encode_texts(self, [each.args[0] for each in requests]), strict=True):
            context, settings = request.args
            longest = self.max_length - int(settings.get("max_gen_toks", DEFAULT_NEW_TOKENS))
            if longest <= 0:
                raise UserError(
                    f"asks for texts of {settings.get('max_gen_toks', DEFAULT_NEW_TOKENS)} tokens, and the model's"
                    f" context is {self.max_length}",
                    where=f"evals.suites: {request.task_name}",
                    next_step="leave the task out of evals.suites, or evaluate a model with a longer context",
                )
            if len(tokens) > longest:
                self.truncated += 1
                self.truncated_by_task[request.task_name] += 1
            prompts.append(Prompt(context, settings, len(tokens), self._asker(request)))
        self.requests += len(prompts)
        order = Collator(
            prompts,
            sort_fn=lambda prompt: (-prompt.tokens, prompt.context),
            group_by="gen_kwargs",
            group_fn=lambda prompt: prompt.settings,
        )
        batches = [list(batch) for batch in order.get_batched(n=self.batch_size)]
        asked = [(str(prompt.task).partition("@")[0], prompt.tokens) for prompt in prompts]
        with self._tracker.step("generating", total=len(prompts), unit="texts") as progress, self.usage.call(asked):
            answered = self._pool.generate(batches, lambda done: progress.update(advance=done))
        texts = [
            text
            for batch, given in zip(batches, answered, strict=True)
            for text in (given if given is not None else [None] * len(batch))
        ]
        in_order = order.get_original(texts)
        for request, text in zip(requests, in_order, strict=True):
            self.usage.wrote(request.task_name, len(self.tok_encode(text, add_special_tokens=False)) if text else 0)
        return [self._or_placeholder(*each, "") for each in zip(requests, in_order, strict=True)]

    def _loglikelihood_tokens(
        self,
        requests: list[TokenRequest],
        label: str = "requests",
        payers: Sequence[str] | None = None,
        **_options: Any,
    ) -> list[Answer | None]:
        for asker, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise UserError(
                    f"an answer of {len(continuation)} tokens does not fit the model's context of {self.max_length}",
                    where="evals.suites",
                    next_step="evaluate a model with a longer context (tokens.sequence_length), or leave the task out",
                )
            if len(context) + len(continuation) > self.max_length + 1:
                self.truncated += 1
                self.truncated_by_task[str(asker).partition("@")[0]] += 1
        self.requests += len(requests)
        members = _group(requests)
        names = payers or [str(asker).partition("@")[0] for asker, _, _ in requests]
        asked = [(name, len(before) + len(after)) for name, (_, before, after) in zip(names, requests, strict=True)]
        with (
            self._tracker.step(f"scoring {label}", total=len(requests), unit=label) as progress,
            self.usage.call(asked),
        ):
            answered = self._score(requests, members, lambda done: progress.update(advance=done))
        results: list[Answer | None] = [None] * len(requests)
        for each, answers in zip(members, answered, strict=True):
            for index, answer in zip(each, answers or (), strict=answers is not None):
                results[index] = (answer[0], answer[1])  # a kept answer comes from JSON, as a list
        return results

    def _score(
        self, requests: list[TokenRequest], members: list[list[int]], on_done: Callable[[int], None]
    ) -> list[list[Answer] | None]:
        """Each group's answers, in order; None for one that an endpoint did not answer."""
        groups = [self._wire(requests, each) for each in members]
        answered: dict[int, list[Answer] | None] = {}
        if self.sharing is not None:
            fits = [sum(map(len, requests[each[0]][1:])) <= self.max_length + 1 for each in members]
            answered.update(self.sharing.score(groups, fits, on_done))
        rest = [index for index in range(len(groups)) if index not in answered]
        batches = [rest[start : start + self.batch_size] for start in range(0, len(rest), self.batch_size)]
        given = self._pool.score([[groups[index] for index in batch] for batch in batches], on_done)
        for batch, answers in zip(batches, given, strict=True):
            answered.update(zip(batch, answers if answers is not None else [None] * len(batch), strict=True))
        return [answered[index] for index in range(len(groups))]

    def _wire(self, requests: list[TokenRequest], members: list[int]) -> Group:
        longest = max(members, key=lambda index: len(requests[index][2]))
        whole = requests[longest][1] + requests[longest][2]
        # A sequence that is too long loses its beginning; its last token is only ever predicted.
        tasks = tuple(sorted({str(requests[index][0]) for index in members}))
        return Group(whole[-(self.max_length + 1) :][:-1], [requests[index][2] for index in members], tasks)


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
