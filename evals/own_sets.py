"""Held-out sets of one's own, asked of whatever model an evaluation holds: a local one or a served one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError
from evals import set_metrics
from evals.heldout import measure_texts
from evals.set_config import FIELDS, SetConfig

if TYPE_CHECKING:
    from evals.harness import ClusterLM


@dataclass(frozen=True)
class SetResult:
    """One set's outcome.

    Attributes:
        figures: metric -> score, 95 % interval and number of documents.
        rows: lines of ``samples/<name>.jsonl``, as of any suite.
        labels: precision, recall and F1 by label, of a labelled set.
        note: what a reader has to know (BLEU's signature, documents without an answer).
        asked, unanswered: documents in all, and those that a served model did not answer.
    """

    kind: str
    figures: set_metrics.Figures
    rows: list[dict[str, Any]]
    labels: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    asked: int = 0
    unanswered: int = 0

    def record(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {"kind": self.kind, "metrics": self.figures, "labels": self.labels, "note": self.note}


def read_set(config: SetConfig) -> list[dict[str, Any]]:
    """The documents of a set.

    Raises:
        UserError: the file is not there, or a line is not what its kind asks for.
    """
    path = Path(config.path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), next_step="check evals.sets") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_checked(line, f"{path}:{number}", config))
    if not rows:
        raise UserError("holds no documents", where=str(path), next_step="write one JSON object a line")
    if config.kind == "labels" and len({row["label"] for row in rows}) < 2:
        raise UserError("has one label only", where=str(path), next_step="a set to classify needs at least two")
    return rows


def _checked(line: str, where: str, config: SetConfig) -> dict[str, Any]:
    wanted = FIELDS[config.kind]
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError("is not JSON", where=where, next_step="write one JSON object a line") from None
    if not isinstance(row, dict) or any(row.get(name) in (None, "", []) for name in wanted):
        raise UserError(
            f"lacks {' or '.join(wanted)}", where=where, next_step=f"a set of kind {config.kind} has them on every line"
        )
    if config.kind == "references":
        if isinstance(row["references"], str):
            row["references"] = [row["references"]]
        if not isinstance(row["references"], list) or not all(isinstance(each, str) for each in row["references"]):
            raise UserError("its references are no texts", where=where, next_step="write a text, or a list of texts")
    return row


def measure_set(lm: ClusterLM, name: str, config: SetConfig) -> SetResult:
    """Ask a model every document of a set. What a served model did not answer is left out, and said.

    Raises:
        UserError: see :func:`read_set`; or a served model gives no log-probabilities.
    """
    rows = read_set(config)
    if config.kind == "text":
        found, unanswered = _text(lm, name, rows)
    else:
        found = _labels(lm, name, rows) if config.kind == "labels" else _written(lm, name, rows, config)
        unanswered = sum(task == name for task, _ in lm.unanswered)
    left_out = f"{unanswered:,} documents without an answer are left out" if unanswered else ""
    note = "; ".join(filter(None, [found.note, left_out]))
    return replace(found, note=note, asked=len(rows), unanswered=unanswered)


def _written(lm: ClusterLM, name: str, rows: Sequence[dict[str, Any]], config: SetConfig) -> SetResult:
    """What the model writes after each prompt, held against an answer or references."""
    settings = {"until": [*config.stop], "max_gen_toks": config.max_new_tokens, "do_sample": False}
    requests = [_instance("generate_until", name, n, (row["prompt"], dict(settings))) for n, row in enumerate(rows)]
    texts = [text.strip() for text in lm.generate_until(requests)]
    rows, texts = _answered(lm, name, rows, texts)
    if not rows:
        return SetResult(config.kind, {}, [])
    note = ""
    if config.kind == "answers":
        figures, values = set_metrics.answers([str(row["answer"]) for row in rows], texts)
    else:
        figures, values, signature = set_metrics.references([[*map(str, row["references"])] for row in rows], texts)
        note = f"BLEU {signature}"
    targets = [row.get("answer", row.get("references")) for row in rows]
    lines = [
        _line(name, number, row, target, own) | {"output": text}
        for number, (row, target, own, text) in enumerate(zip(rows, targets, values, texts, strict=True))
    ]
    return SetResult(config.kind, figures, lines, note=note)


def _text(lm: ClusterLM, name: str, rows: Sequence[dict[str, Any]]) -> tuple[SetResult, int]:
    """Perplexity and bits a byte of whole texts; and how many were not answered."""
    import math

    measured = measure_texts(lm, [str(row["text"]) for row in rows], 1 << 62, {}, f"texts of {name}")
    if not measured.documents:
        return SetResult("text", {}, []), measured.unanswered
    figures: set_metrics.Figures = {
        metric.removeprefix("heldout."): {"score": value, "interval_95": None, "n": measured.documents}
        for metric, value in measured.metrics().items()
        if "unigram" not in metric
    }
    if measured.documents > 1:
        from evals.decide.bootstrap import paired_bootstrap

        losses = measured.texts
        found = paired_bootstrap(
            [loss.bits_per_byte for loss in losses], None, [loss.text_bytes / measured.text_bytes for loss in losses]
        )
        bounds = [bound if math.isfinite(bound) else None for bound in found.interval()]
        figures["bits_per_byte"]["interval_95"] = bounds if None not in bounds else None
    lines = [loss.row(number, name) for number, loss in enumerate(measured.texts)]
    return SetResult("text", figures, lines), measured.unanswered


def _labels(lm: ClusterLM, name: str, rows: Sequence[dict[str, Any]]) -> SetResult:
    """The likeliest label after each prompt, a blank before it."""
    labels = sorted({str(row["label"]) for row in rows})
    requests = [
        _instance("loglikelihood", name, number, (str(row["prompt"]), f" {label}"))
        for number, row in enumerate(rows)
        for label in labels
    ]
    answers = lm.loglikelihood(requests)
    scored = [answers[start : start + len(labels)] for start in range(0, len(answers), len(labels))]
    rows, scored = _answered(lm, name, rows, scored)
    if not rows:
        return SetResult("labels", {}, [])
    given = [labels[max(range(len(labels)), key=lambda index: own[index][0])] for own in scored]
    right = [str(row["label"]) for row in rows]
    figures, table = set_metrics.classification(right, given)
    lines = [
        _line(name, number, row, labels.index(str(row["label"])), {"acc": float(said == row["label"])})
        | {
            "answers": [
                {"text": f" {label}", "logprob": answer[0], "greedy": answer[1]}
                for label, answer in zip(labels, own, strict=True)
            ]
        }
        for number, (row, said, own) in enumerate(zip(rows, given, scored, strict=True))
    ]
    return SetResult("labels", figures, lines, table)


def _answered(
    lm: ClusterLM, name: str, rows: Sequence[dict[str, Any]], answers: Sequence[Any]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The documents that have an answer, with their answers."""
    kept = [number for number in range(len(rows)) if (name, number) not in lm.unanswered]
    return [rows[number] for number in kept], [answers[number] for number in kept]


def _line(name: str, number: int, row: dict[str, Any], target: Any, metrics: dict[str, float]) -> dict[str, Any]:
    data = json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8")
    return {
        "task": name,
        "doc_id": number,
        "doc_hash": hashlib.sha256(data).hexdigest(),
        "doc": row,
        "target": target,
        "prompt": str(row["prompt"]),
        "metrics": metrics,
    }


def _instance(kind: Any, name: str, number: int, arguments: tuple[Any, ...]) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0, (name, number, 1))
