"""Figures of held-out sets: classification, short answers, texts with references. Each with a 95 % interval.

Intervals: Wilson's for shares; otherwise the percentile bootstrap over documents (Efron 1979), 1,000 resamples.
BLEU is sacrebleu's (Post 2018), ROUGE is rouge-score's (Lin 2004), so that figures compare with published ones.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from evals.intervals import wilson

RESAMPLES = 1_000
SEED = 1234
ROUGES = ("rouge1", "rouge2", "rougeL")

Figures = dict[str, dict[str, Any]]
"""metric -> {score, interval_95, n}."""


def classification(right: Sequence[str], given: Sequence[str]) -> tuple[Figures, list[dict[str, Any]]]:
    """Accuracy and macro-averaged precision, recall and F1; and the last three with their support by label.

    A label that was never given has a precision of 0, one that never occurs a recall of 0; the macro average is over
    the labels that occur on either side, as scikit-learn takes it.
    """
    labels = sorted({*right, *given})
    n = len(right)
    hits = sum(a == b for a, b in zip(right, given, strict=True))
    place = {label: index for index, label in enumerate(labels)}
    pairs = [(place[a], place[b]) for a, b in zip(right, given, strict=True)]

    def macro(chosen: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
        by_label = [each for each in _by_label(chosen, len(labels)) if each[3] or each[4]]
        return tuple(math.fsum(each[part] for each in by_label) / len(by_label) for part in range(3))  # type: ignore[return-value]

    figures: Figures = {"acc": {"score": hits / n, "interval_95": list(wilson(hits, n)), "n": n}}
    values, bounds = macro(pairs), _bootstrap(pairs, macro)
    for part, name in enumerate(("precision", "recall", "f1")):
        figures[name] = {"score": values[part], "interval_95": bounds[part], "n": n}
    table = [
        {"label": label, "precision": p, "recall": r, "f1": f, "documents": support}
        for label, (p, r, f, support, _) in zip(labels, _by_label(pairs, len(labels)), strict=True)
    ]
    return figures, table


def _by_label(pairs: Sequence[tuple[int, int]], count: int) -> list[tuple[float, float, float, int, int]]:
    """(precision, recall, F1, documents of the label, documents given it) for each label."""
    truth, said, both = [0] * count, [0] * count, [0] * count
    for a, b in pairs:
        truth[a] += 1
        said[b] += 1
        both[a] += a == b
    found = []
    for own, claimed, hit in zip(truth, said, both, strict=True):
        precision, recall = hit / claimed if claimed else 0.0, hit / own if own else 0.0
        f1 = 2 * hit / (own + claimed) if own + claimed else 0.0
        found.append((precision, recall, f1, own, claimed))
    return found


def _bootstrap(
    documents: Sequence[Any], statistic: Callable[[Sequence[Any]], tuple[float, ...]]
) -> list[list[float] | None]:
    """Percentile intervals of each figure that ``statistic`` gives."""
    import numpy as np

    if len(documents) < 2:
        return [None] * len(statistic(documents))
    rng = np.random.Generator(np.random.PCG64(SEED))
    drawn = rng.integers(0, len(documents), size=(RESAMPLES, len(documents)))
    values = np.array([statistic([documents[index] for index in row]) for row in drawn.tolist()])
    ends = np.quantile(values, (0.025, 0.975), axis=0).T.tolist()
    return [[low, high] if low < high else None for low, high in ends]  # equal values say nothing of their spread


def answers(right: Sequence[str], given: Sequence[str]) -> tuple[Figures, list[dict[str, float]]]:
    """Exact match and F1 of words, as SQuAD scores them (Rajpurkar and others 2016); and both by document."""
    rows = [
        {"exact_match": float(normalise(a) == normalise(b)), "f1": word_f1(a, b)}
        for a, b in zip(right, given, strict=True)
    ]
    hits, n = sum(row["exact_match"] for row in rows), len(rows)
    f1 = math.fsum(row["f1"] for row in rows) / n
    (bounds,) = _bootstrap([row["f1"] for row in rows], lambda chosen: (math.fsum(chosen) / len(chosen),))
    return {
        "exact_match": {"score": hits / n, "interval_95": list(wilson(hits, n)), "n": n},
        "f1": {"score": f1, "interval_95": bounds, "n": n},
    }, rows


def normalise(text: str) -> str:
    """Lower case, without punctuation, English articles and extra spaces: SQuAD's ``normalize_answer``."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(right: str, given: str) -> float:
    """F1 of the bags of words of two texts, normalised."""
    a, b = normalise(right).split(), normalise(given).split()
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))


def references(
    references: Sequence[Sequence[str]], given: Sequence[str]
) -> tuple[Figures, list[dict[str, float]], str]:
    """Corpus BLEU (0 to 100) and mean ROUGE F-measures (0 to 1, the best reference of each); ROUGE by document.

    Returns:
        figures, rows, and BLEU's signature, which says how it was computed.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    n, most = len(given), max(map(len, references))
    streams: Any = [[own[index] if index < len(own) else None for own in references] for index in range(most)]
    bleu = BLEU(references=streams)
    scored = bleu.corpus_score(given, None, n_bootstrap=RESAMPLES if n > 1 else 1)
    told = json.loads(scored.format(width=6, signature=str(bleu.get_signature()), is_json=True))
    bounds = None
    if "confidence_mean" in told:
        middle, half = float(told["confidence_mean"]), float(told["confidence_var"])
        bounds = [max(0.0, middle - half), min(100.0, middle + half)]
    figures: Figures = {"bleu": {"score": scored.score, "interval_95": bounds, "n": n}}
    scorer = RougeScorer([*ROUGES], use_stemmer=False)
    rows = []
    for own, text in zip(references, given, strict=True):
        against = [scorer.score(reference, text) for reference in own]
        rows.append({name: max(float(each[name].fmeasure) for each in against) for name in ROUGES})
    for name in ROUGES:
        values = [row[name] for row in rows]
        (around,) = _bootstrap(values, lambda chosen: (math.fsum(chosen) / len(chosen),))
        figures[name] = {"score": math.fsum(values) / n, "interval_95": around, "n": n}
    return figures, rows, str(bleu.get_signature())
