"""A language model as judge, through any OpenAI URL: which of two answers is better, or how good is each.

Pairwise: every pair is judged twice, the answers in either order. Only what the judge says both times counts; what it
says in one order alone is a tie (Zheng and others 2023, "Judging LLM-as-a-judge", section 3.4). How often that happens
is reported, because a judge that follows the order has no opinion. Rubric: every answer is graded alone, 1 to 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from evals.answers import AnswerBook, key_of
from evals.decide.bootstrap import Bootstrap, paired_bootstrap
from evals.decide.metrics import common
from evals.decide.reading import Document, Key, Measured
from evals.decide.votes import Choice, LengthBias, Tally, krippendorff_alpha, length_bias, tally
from evals.endpoint import Endpoint
from evals.intervals import wilson

IN_FLIGHT = 8
MAX_TOKENS = 512
GRADES = 5

PAIRWISE = """You compare two answers to one request. Judge which answer serves the person who asked better: \
is it right, complete, and to the point? Neither the order of the answers nor their length is a reason.{criteria}

[Request]
{prompt}

[Answer 1]
{first}

[Answer 2]
{second}

Say in a sentence or two why, then end with exactly one of these lines:
Verdict: 1
Verdict: 2
Verdict: tie"""

RUBRIC = """You grade an answer to a request from 1 (useless) to 5 (nothing to improve).{criteria}

[Request]
{prompt}
{reference}
[Answer]
{answer}

Say in a sentence or two why, then end with exactly one line of this form:
Grade: N"""

Pairs = Mapping[Key, tuple[Document, Document]]


@dataclass(frozen=True)
class PairwiseResult:
    """What a judge said of two models.

    Attributes:
        votes: by document; a tie where the two orders disagreed.
        same: documents judged the same in both orders; ``agreement`` is Krippendorff's alpha of the two orders.
        first_share: how often the answer shown first won, of decided judgements, with a 95 % interval; a half is fair.
        unreadable: documents without a verdict that can be read, which are left out.
    """

    votes: dict[Key, Choice]
    tally: Tally
    same: int
    agreement: float | None
    first_share: float | None
    first_interval: tuple[float, float] | None
    length: LengthBias
    unreadable: int

    @property
    def position_bias(self) -> bool:
        """Whether the order of the answers is shown to sway the judge."""
        return self.first_interval is not None and not self.first_interval[0] <= 0.5 <= self.first_interval[1]


@dataclass(frozen=True)
class RubricResult:
    """Grades of both models, 1 to 5.

    Attributes:
        difference: B's mean grade minus A's, by the paired bootstrap.
        length_correlation: Spearman's, of an answer's grade and its length.
    """

    grades: dict[Key, tuple[int, int]]
    a: float
    b: float
    difference: Bootstrap
    length_correlation: float | None
    unreadable: int


class Judge:
    """A judge behind a URL; what it said is kept, so that a repeated run asks only the rest.

    Args:
        book: where its words are kept; nowhere if None.
    """

    def __init__(
        self, endpoint: Endpoint, criteria: str = "", book: AnswerBook | None = None, in_flight: int = IN_FLIGHT
    ) -> None:
        self._endpoint = endpoint
        self._criteria = f" {criteria.strip()}" if criteria.strip() else ""
        self._book = book
        self._kept = book.read() if book else {}
        self._in_flight = in_flight

    def compare(self, pairs: Pairs, on_done: Callable[[int], None] = lambda _: None) -> PairwiseResult:
        """Judge every pair in both orders."""
        keys = list(pairs)
        prompts = []
        for key in keys:
            a, b = pairs[key]
            for first, second in ((a, b), (b, a)):
                prompts.append(
                    PAIRWISE.format(criteria=self._criteria, prompt=a.prompt, first=first.chosen, second=second.chosen)
                )
        said = [read_verdict(text) for text in self._ask_all(prompts, on_done)]
        votes: dict[Key, Choice] = {}
        orders: list[list[str]] = []
        places: list[str] = []
        for key, forward, backward in zip(keys, said[::2], said[1::2], strict=True):
            if forward is None or backward is None:
                continue
            both = [_NAMES[forward], _SWAPPED[backward]]
            orders.append([str(each) for each in both])
            places += [forward, backward]
            votes[key] = both[0] if both[0] == both[1] else "tie"
        if not votes:
            raise UserError(
                "not one of its verdicts can be read",
                where=self._endpoint.url,
                next_step="use a judge that follows instructions: it has to end with a line such as `Verdict: 1`",
            )
        decided = [place for place in places if place != "tie"]
        firsts = decided.count("1")
        lengths = {key: (len(pairs[key][0].chosen), len(pairs[key][1].chosen)) for key in votes}
        return PairwiseResult(
            votes,
            tally(votes.values()),
            sum(first == second for first, second in orders),
            krippendorff_alpha(orders),
            firsts / len(decided) if decided else None,
            wilson(firsts, len(decided)) if decided else None,
            length_bias(votes, lengths),
            len(keys) - len(votes),
        )

    def grade(self, pairs: Pairs, on_done: Callable[[int], None] = lambda _: None) -> RubricResult:
        """Grade both answers of every pair, each alone."""
        keys = list(pairs)
        prompts = [
            RUBRIC.format(criteria=self._criteria, prompt=each.prompt, answer=each.chosen, reference=_reference(each))
            for key in keys
            for each in pairs[key]
        ]
        said = [read_grade(text) for text in self._ask_all(prompts, on_done)]
        grades = {
            key: (a, b)
            for key, a, b in zip(keys, said[::2], said[1::2], strict=True)
            if a is not None and b is not None
        }
        if len(grades) < 2:
            raise UserError(
                "fewer than two of its grades can be read",
                where=self._endpoint.url,
                next_step="use a judge that follows instructions: it has to end with a line such as `Grade: 4`",
            )
        lengths = [len(pairs[key][side].chosen) for key in grades for side in (0, 1)]
        flat = [grade for both in grades.values() for grade in both]
        return RubricResult(
            grades,
            sum(a for a, _ in grades.values()) / len(grades),
            sum(b for _, b in grades.values()) / len(grades),
            paired_bootstrap([float(b - a) for a, b in grades.values()]),
            spearman(flat, lengths),
            len(keys) - len(grades),
        )

    def _ask_all(self, prompts: Sequence[str], on_done: Callable[[int], None]) -> list[str]:
        with ThreadPoolExecutor(self._in_flight) as pool:
            found = []
            for text in pool.map(self._ask, prompts):
                found.append(text)
                on_done(1)
            return found

    def _ask(self, prompt: str) -> str:
        key = key_of(["judge", prompt])
        if key in self._kept:
            return str(self._kept[key])
        body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": MAX_TOKENS}
        answer = self._endpoint.post("/v1/chat/completions", body)
        try:
            text = str(answer["choices"][0]["message"].get("content") or "")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise UserError(
                f"gives no message: {str(answer)[:200]}",
                where=f"{self._endpoint.url}/v1/chat/completions",
                next_step="name a server that speaks OpenAI's chat API",
            ) from None
        if self._book:
            self._book.keep({key: text})
        return text


_NAMES: dict[str, Choice] = {"1": "a", "2": "b", "tie": "tie"}
_SWAPPED: dict[str, Choice] = {"1": "b", "2": "a", "tie": "tie"}


def read_verdict(text: str) -> str | None:
    """``1``, ``2`` or ``tie`` of the last verdict in a judge's words; None where there is none."""
    found = re.findall(r"verdict\W{0,6}(1|2|tie)\b", text, re.IGNORECASE)
    return str(found[-1]).lower() if found else None


def read_grade(text: str) -> int | None:
    """The last grade within 1 and 5 in a judge's words; None where there is none."""
    found = re.findall(rf"grade\W{{0,6}}([1-{GRADES}])(?![\d.])", text, re.IGNORECASE)
    return int(found[-1]) if found else None


def answered_pairs(a: Measured, b: Measured, suites: Sequence[str] = ()) -> dict[Key, tuple[Document, Document]]:
    """The documents that both models answered in words, of some suites or of all that have such.

    Raises:
        UserError: there are none.
    """
    chosen = list(suites) or common(a.suites, b.suites)
    found = {
        key: (document, b.suites[suite][key])
        for suite in chosen
        for key, document in a.suites.get(suite, {}).items()
        if key in b.suites.get(suite, {}) and document.output and b.suites[suite][key].output
    }
    if not found:
        raise UserError(
            "the two evaluations have no written answers in common",
            where=f"{a.name}, {b.name}",
            next_step="evaluate both on something answered in words: truthfulqa_gen, or evals.sets of kind answers",
        )
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where one side never varies."""
    import numpy as np

    def ranks(values: Sequence[float]) -> Any:
        _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return (ends - (counts - 1) / 2)[inverse]

    a, b = ranks(first), ranks(second)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _reference(document: Document) -> str:
    """A right answer for the judge to see, where there is one; TruthfulQA's target is a blank."""
    target = document.target[0] if isinstance(document.target, list) and document.target else document.target
    return f"\n[A right answer]\n{target.strip()}\n" if isinstance(target, str) and target.strip() else ""
