"""How like written texts are to expected ones: ROUGE (Lin 2004) and BLEU (Papineni and others 2002).

Both come from the libraries that published figures come from: rouge-score and sacrebleu (Post 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.report import Page

ROUGES = ("rouge1", "rouge2", "rougeL")
TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "bleu": "BLEU"}


def likeness(written: Sequence[str], expected: Sequence[str]) -> tuple[dict[str, float], str]:
    """ROUGE-1, -2 and -L as mean F-measures (0 to 1), BLEU of all texts together (0 to 100), and BLEU's signature."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    scorer = RougeScorer([*ROUGES], use_stemmer=False)
    found = [scorer.score(target, text) for text, target in zip(written, expected, strict=True)]
    scores = {name: fmean(float(each[name].fmeasure) for each in found) for name in ROUGES}
    bleu = BLEU()
    scores["bleu"] = float(bleu.corpus_score(list(written), [list(expected)]).score)
    return scores, str(bleu.get_signature())


def compare(before: Sequence[str], after: Sequence[str], expected: Sequence[str]) -> dict[str, Any]:
    """:func:`likeness` before and after training, as plain values for an artifact's details."""
    first, signature = likeness(before, expected)
    return {
        "answers": len(expected),
        "before": first,
        "after": likeness(after, expected)[0],
        "bleu_signature": signature,
    }


def metrics_of(found: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of what :func:`compare` found."""
    after = {f"validation.{name}": value for name, value in found["after"].items()}
    return after | {f"validation.{name}_before": value for name, value in found["before"].items()}


def show(found: Mapping[str, Any], page: Page) -> None:
    """A report's section on what :func:`compare` found."""
    page.heading("What it writes, held against what was expected")
    page.table(
        [
            {"measure": TITLES[name], "before": found["before"][name], "after": value}
            for name, value in found["after"].items()
        ]
    )
    page.paragraph(
        f"Written greedily for {found['answers']:,} held-out examples. ROUGE is a mean F-measure from 0 to 1, BLEU is "
        f"of all together, from 0 to 100 ({found['bleu_signature']})."
    )
