"""A served model asked over HTTP (OpenAI's ``/v1/completions``): the pool's interface, without actors.

Log-probabilities come from ``echo`` with ``logprobs``, prompts are token ids, so that what is scored does not depend on
the server's own reading of a text. A request that fails is repeated with longer and longer pauses; when an endpoint
stays away, what was not answered is None and the evaluation goes on to a partial result.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError
from cluster.web import opener, proxy_for
from evals.answers import AnswerBook, key_of
from evals.scorer import Answer, Group, Prompt

KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT_S = 120.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits between the tries of one request; then the endpoint counts as gone."""

OVERRIDE, ANSWERED_BY = "X-Raymill-Override", "X-Raymill-Variant"
"""Headers of Raymill's gateway: which variant is asked for (with a key of scope admin), and which one answered."""

REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CHANGED = 1e-3
"""An answer that moved by more, in nats, is another model's."""

PROBES = 3
"""So many kept batches are asked again before any is used: the first, the last, and one between them."""


@dataclass
class Endpoint:
    """One model behind a URL.

    Attributes:
        url: up to and without ``/v1``.
        model: its name there.
        variant: behind Raymill's gateway, the variant that has to answer; any where it is empty.
        answered_by: behind Raymill's gateway, how many requests each variant answered.
    """

    url: str
    model: str
    pauses_s: tuple[float, ...] = PAUSES_S
    variant: str = ""
    answered_by: Counter[str] = field(default_factory=Counter, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, tried again where that can help.

        Raises:
            UserError: the endpoint refuses the request.
            InfraError: it did not answer any of the tries.
        """
        return self._ask(f"{self.url}{path}", json.dumps({"model": self.model, **body}).encode())

    def get(self, path: str) -> Any:
        """As :meth:`post`, without a body."""
        return self._ask(f"{self.url}{path}", None)

    def _ask(self, address: str, data: bytes | None) -> Any:
        tried: list[str] = []
        for pause in (*self.pauses_s, None):
            try:
                return self._send(address, data)
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode(errors="replace")
                if error.code not in REPEATED:
                    raise UserError(
                        f"refuses a request (HTTP {error.code}): {said[:300]}",
                        where=address,
                        next_step=_advice(error.code, address),
                    ) from None
                tried.append(f"HTTP {error.code}: {said[:120]}")
            except (OSError, ValueError, HTTPException) as error:  # refused, cut off, timed out, half an answer
                tried.append(f"{type(error).__name__}: {error}")
            if pause is not None:
                time.sleep(pause)
        raise InfraError(
            "does not answer",
            where=address,
            next_step="repeat the command when it is back: what was answered is kept",
            attempts=_told_once(tried),
        )

    def _send(self, address: str, data: bytes | None) -> Any:
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        key = os.environ.get(KEY_VARIABLE)
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        if self.variant:
            request.add_header(OVERRIDE, self.variant)
        with opener(proxy_for(address)).open(request, timeout=TIMEOUT_S) as response:
            answered = response.headers.get(ANSWERED_BY)
            if self.variant and data is not None and answered != self.variant:
                raise OSError(f"{answered or 'an unnamed variant'} answered in place of {self.variant}")
            said = json.loads(response.read())
        if answered and data is not None:
            with self._lock:
                self.answered_by[answered] += 1
        return said


@dataclass
class EndpointPool:
    """Questions to an endpoint, so many at a time.

    What it did not answer is None, and the evaluation goes on to a partial result, whatever is asked afterwards; only
    where it never answered anything is that an error.

    Attributes:
        encode: text -> its tokens, for prompts that are too long; by default those go out as they are.
        longest: tokens of the longest prompt and answer together.
        failure: why the endpoint was given up; None while it answers.
        asked: batches that it answered.
    """

    endpoint: Endpoint
    in_flight: int
    eos: str
    book: AnswerBook | None = None
    encode: Callable[[str], list[int]] | None = None
    longest: int = 0
    failure: RaymillError | None = None
    asked: int = 0
    _answered: bool = False
    _kept: dict[str, Any] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def score(self, batches: list[list[Group]], on_done: Callable[[int], None]) -> list[Any]:
        """Answers for every batch in order, None for one that was not answered."""
        sizes = [sum(len(group.continuations) for group in batch) for batch in batches]
        return self._answer(self._score, "score", batches, sizes, on_done)

    def generate(self, batches: list[list[Prompt]], on_done: Callable[[int], None]) -> list[Any]:
        """Texts for every batch in order, None for one that was not answered."""
        return self._answer(self._generate, "generate", batches, [len(batch) for batch in batches], on_done)

    def _answer(
        self,
        ask: Callable[[Any], Any],
        method: str,
        batches: list[Any],
        sizes: list[int],
        on_done: Callable[[int], None],
    ) -> list[Any]:
        keys = [key_of([method, batch]) for batch in batches]
        kept = self._still_true(ask, keys, batches)
        results: list[Any] = [kept.get(key) for key in keys]

        def work(index: int) -> None:
            if results[index] is None:
                if self.failure is not None:
                    return
                try:
                    results[index] = ask(batches[index])
                except RaymillError as error:
                    with self._lock:
                        self.failure = self.failure or error
                    return
                if self.book:
                    self.book.keep({keys[index]: results[index]})
                with self._lock:
                    self.asked += 1
            with self._lock:
                on_done(sizes[index])

        with ThreadPoolExecutor(self.in_flight) as threads:
            for _ in threads.map(work, range(len(batches))):
                pass
        self._answered = self._answered or any(result is not None for result in results)
        if self.failure and (isinstance(self.failure, UserError) or not self._answered):
            raise self.failure
        return results

    def _still_true(self, ask: Callable[[Any], Any], keys: list[str], batches: list[Any]) -> dict[str, Any]:
        """What an earlier, unfinished evaluation was answered; nothing where another model answers there now."""
        if self._kept is None:
            self._kept = self.book.read() if self.book else {}
        known = [index for index, key in enumerate(keys) if key in self._kept]
        for index in sorted({known[place * (len(known) - 1) // (PROBES - 1)] for place in range(PROBES) if known}):
            if self.failure is not None:
                return {}  # nobody is there to say whether they still hold
            try:
                found = ask(batches[index])
            except RaymillError as error:
                self.failure = error
                return {}
            if not _agree(found, self._kept[keys[index]]):
                self._kept = {}
                if self.book:
                    self.book.forget()  # else a third run would find the answers of two models in it
                break
        return self._kept

    def _score(self, batch: list[Group]) -> list[list[Answer]]:
        prompts = [[*group.inputs, tokens[-1]] for group in batch for tokens in group.continuations]
        body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        choices = self._choices(body, len(prompts))
        answers = []
        for group in batch:
            answers.append([_read(next(choices), len(group.inputs) + 1, len(each)) for each in group.continuations])
        return answers

    def _generate(self, batch: list[Prompt]) -> list[str]:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

        wanted = normalize_gen_kwargs(dict(batch[0].settings), 256)
        stop = handle_stop_sequences(wanted.pop("until", None), eos=self.eos)
        temperature = float(wanted.get("temperature") or 0.0) if wanted.get("do_sample") else 0.0
        room = self.longest - wanted["max_gen_toks"]
        prompts: list[Any] = [prompt.context for prompt in batch]
        if self.encode is not None and any(prompt.tokens > room for prompt in batch):
            prompts = [self.encode(prompt.context)[-room:] for prompt in batch]  # else the server refuses them all
        body = {
            "prompt": prompts,
            "max_tokens": wanted["max_gen_toks"],
            "temperature": temperature,
            "stop": stop[:4],  # as many as the API allows; the rest is cut off below
        }
        choices = self._choices(body, len(batch))
        return [
            str(postprocess_generated_text(generation=choice["text"], stop=stop, think_end_token=None))
            for choice in choices
        ]

    def _choices(self, body: dict[str, Any], count: int) -> Any:
        answer = self.endpoint.post("/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        except (KeyError, TypeError):
            choices = []
        if len(choices) != count:
            raise UserError(
                f"gave {len(choices)} answers to {count} prompts",
                where=f"{self.endpoint.url}/v1/completions",
                next_step="name a server that speaks OpenAI's completions API",
            )
        return iter(choices)


def _advice(code: int, address: str) -> str:
    """What to do about a request that is refused."""
    if code in (401, 403, 404):
        return f"check the model's name, and the key in {KEY_VARIABLE}"
    if address.endswith("/chat/completions"):
        return "the judge has to take a message of this length, `temperature` 0 and `max_tokens`"
    return (
        "check that the server gives log-probabilities of a prompt (echo and logprobs), and takes prompts as long as"
        " the model's context; --context says how long where it takes less"
    )


def _told_once(tried: list[str]) -> tuple[str, ...]:
    """What was tried, each stretch of the same once with its number of times."""
    stretches = [(text, len(list(same))) for text, same in itertools.groupby(tried)]
    return tuple(text if times == 1 else f"{times} times: {text}" for text, times in stretches)


def _read(choice: dict[str, Any], length: int, continuation: int) -> Answer:
    """The continuation's log-probability out of an echoed prompt of so many tokens."""
    try:
        told = choice["logprobs"]
        values = told["token_logprobs"][length - continuation : length]
        best = [max(top.values()) for top in told["top_logprobs"][length - continuation : length]]
        if len(values) != continuation or len(told["token_logprobs"]) < length:
            raise ValueError(f"{len(told['token_logprobs'])} log-probabilities for {length} tokens")
        return float(sum(values)), all(value >= most for value, most in zip(values, best, strict=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"gives no log-probabilities of a prompt ({type(error).__name__}: {error})",
            where="/v1/completions",
            next_step="serve it with vLLM, or ask only tasks that are answered with text (generate_until)",
        ) from None


def _agree(new: Any, old: Any) -> bool:
    if isinstance(new, str) or isinstance(old, str):
        return bool(new == old)
    if isinstance(new, (int, float)):
        return abs(float(new) - float(old)) <= CHANGED
    return len(new) == len(old) and all(_agree(a, b) for a, b in zip(new, old, strict=True))
