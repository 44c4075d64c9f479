"""`raymill judge`: a language model says which of two models' answers are better. Needs the store and its URL."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.progress import Progress
from cluster.store import open_store

ALPHA = 0.05


def judge(arguments: Namespace) -> int:
    """Ask the judge, print what it said and how far it can be trusted."""
    from evals.answers import AnswerBook
    from evals.decide.judge import Judge, answered_pairs
    from evals.decide.reading import load_measured
    from evals.endpoint import Endpoint

    if arguments.votes:
        check_folder(arguments.votes)
    others = _votes_of(arguments.against) if arguments.against else {}
    store = open_store(arguments.store)
    a, b = load_measured(store, arguments.a), load_measured(store, arguments.b)
    pairs = answered_pairs(a, b, arguments.suites)
    address = arguments.url.rstrip("/").removesuffix("/v1")
    book = AnswerBook.of(store, "judge", {"url": address, "model": arguments.model_name})
    asking = Judge(Endpoint(address, arguments.model_name), arguments.criteria, book)
    progress = Progress()
    with progress.track("judge") as tracker, tracker.step("judging", total=2 * len(pairs), unit="judgements") as step:
        if arguments.rubric:
            graded = asking.grade(pairs, lambda done: step.update(advance=done))
        else:
            compared = asking.compare(pairs, lambda done: step.update(advance=done))
    told = _rubric(graded) if arguments.rubric else _pairwise(compared)
    told |= {"a": a.model, "b": b.model, "judge": f"{arguments.model_name} at {address}"}
    if not arguments.rubric:
        if arguments.against:
            told |= _agreement(arguments.against, others, compared.votes)
        if arguments.votes:
            write_votes(arguments.votes, compared.votes, arguments.model_name)
    book.forget()  # what is served there may be another model tomorrow
    if arguments.json:
        print(json.dumps(told, indent=1))
        return 0
    print(f"A: {a.name} ({a.model})\nB: {b.name} ({b.model})\njudge: {told['judge']}\n")
    print("\n".join(_rubric_lines(graded) if arguments.rubric else _pairwise_lines(compared, a.name, b.name)))
    if "against" in told:
        alpha = told["against_agreement"]
        shown = "cannot be said" if alpha is None else f"{alpha:.2f} (Krippendorff's alpha; 1 perfect, 0 chance)"
        print(f"agreement with {told['against']} on {told['against_documents']:,} documents: {shown}")
    return 0


def _pairwise(found: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(found).items() if key != "votes"} | {
        "position_bias": found.position_bias
    }


def _pairwise_lines(found: Any, a: str, b: str) -> list[str]:
    from evals.decide.votes import tally_lines

    n = found.tally.documents
    lines = [*tally_lines(found.tally, a, b), ""]
    alpha = "" if found.agreement is None else f", agreement {found.agreement:.2f} (Krippendorff's alpha)"
    lines.append(f"the same in both orders: {found.same:,} of {n:,} documents{alpha}; the others count as ties")
    if found.first_interval is not None:
        low, high = found.first_interval
        shown = "SWAYED BY THE ORDER: " if found.position_bias else ""
        lines.append(
            f"{shown}the answer shown first won {found.first_share:.0%} ({low:.0%} to {high:.0%}; 50 % is fair)"
        )
    if found.unreadable:
        lines.append(f"{found.unreadable:,} documents without a verdict that can be read are left out")
    return [*lines, *length_lines(found.length, b)]


def length_lines(found: Any, b: str) -> list[str]:
    """What a length check says."""
    if found.interval is None:
        return ["no decided answers of different lengths"]
    low, high = found.interval
    shown = "LENGTH GOES WITH WINNING: " if found.shown else ""
    line = f"{shown}the longer answer won {found.share:.0%} of {found.decided:,} ({low:.0%} to {high:.0%})"
    alike = f"; among answers of like length {b} leads by {100 * found.difference_alike:+.1f} points"
    return [line + (alike if found.difference_alike is not None else "")]


def _rubric(found: Any) -> dict[str, Any]:
    detectable, decides = _sizes(found)
    return {
        "documents": len(found.grades),
        "a_grade": found.a,
        "b_grade": found.b,
        "difference": found.difference.difference,
        # JSON knows no infinity.
        "interval": [end if math.isfinite(end) else None for end in found.difference.interval()],
        "p_value": found.difference.p_value,
        "detectable": detectable,
        "decides": decides,
        "length_correlation": found.length_correlation,
        "unreadable": found.unreadable,
    }


def _sizes(found: Any) -> tuple[float | None, int | None]:
    """The difference of mean grades that would have been found, and documents that would find one like this."""
    from evals.decide.power import detectable_mean, documents_needed_mean

    if not found.difference.stderr:
        return None, None
    needed = documents_needed_mean(found.difference.difference, found.difference.spread, ALPHA)
    return detectable_mean(found.difference.stderr, ALPHA), needed


def _rubric_lines(found: Any) -> list[str]:
    from evals.decide.power import POWER

    low, high = found.difference.interval()
    p = found.difference.p_value
    verdict = "B is better" if found.difference.difference > 0 else "B is worse"
    if p > ALPHA:
        detectable, decides = _sizes(found)
        least = f"; a difference of {detectable:.2f} would have been found" if detectable else ""
        more = f"; {decides:,} documents would decide one like this {POWER:.0%} of the time" if decides else ""
        verdict = f"no evidence either way{least}{more}"
    lines = [
        f"mean grade of {len(found.grades):,} documents, 1 to 5: A {found.a:.2f}, B {found.b:.2f}",
        f"B - A {found.difference.difference:+.2f} ({low:+.2f} to {high:+.2f}), p = {p:.4f}: {verdict}",
    ]
    if found.length_correlation is not None:
        lines.append(
            f"grades and lengths of answers go together with a rank correlation of {found.length_correlation:+.2f}"
        )
    if found.unreadable:
        lines.append(f"{found.unreadable:,} documents without a grade that can be read are left out")
    return lines


def check_folder(path: str) -> None:
    """Raise UserError where the folder of a file to write is not there: found before anybody is asked."""
    if not Path(path).resolve().parent.is_dir():
        raise UserError("its folder does not exist", where=path, next_step="make it first")


def write_votes(path: str, votes: Any, by: str) -> None:
    """Votes as JSON Lines."""
    from evals.decide.votes import vote_rows

    Path(path).write_text("".join(json.dumps(row) + "\n" for row in vote_rows(votes, by)), encoding="utf-8")


def _votes_of(path: str) -> dict[tuple[str, str, int], str]:
    try:
        rows = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
        return {(row["task"], row["doc_hash"], row["number"]): row["vote"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"holds no votes: {error}", where=path, next_step="give what --votes wrote") from None


def _agreement(path: str, others: dict[tuple[str, str, int], str], votes: Any) -> dict[str, Any]:
    from evals.decide.votes import krippendorff_alpha

    both = [[vote, others[key]] for key, vote in votes.items() if key in others]
    return {"against": path, "against_documents": len(both), "against_agreement": krippendorff_alpha(both)}
