"""Question-answer pairs: derived from curated docstrings, or read from a user's file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from cluster.errors import UserError

HEADING = re.compile(r"^## (?P<kind>def|class) (?P<name>[\w.]+)(?P<arguments>\(.*\))?:?\s*$", re.MULTILINE)
TITLE = re.compile(r"^# (?P<module>[\w.]+)\s*$", re.MULTILINE)

MIN_ANSWER_CHARACTERS = 12
MAX_ANSWER_CHARACTERS = 400
MAX_SIGNATURE_CHARACTERS = 200

DEF_QUESTIONS = (
    "What does `{name}` in `{module}` do?",
    "What does `{signature}` do?",
    "What is the function `{module}.{name}` for?",
    "Explain `{name}` from the module `{module}`.",
)
CLASS_QUESTIONS = (
    "What is the class `{name}` in `{module}`?",
    "What is `{module}.{name}` for?",
    "Explain the class `{signature}`.",
    "Describe `{name}` from the module `{module}`.",
)


@dataclass(frozen=True)
class Pair:
    """A prompt and the answer that is to be learned."""

    prompt: str
    completion: str


def docstring_pairs(text: str) -> Iterator[Pair]:
    """The pairs of one document: ``# module``, then ``## def name(…)`` or ``## class Name(…)`` and its docstring.

    The answer is the docstring's first paragraph as one line. Which question is asked of what is decided by a hash.
    """
    title = TITLE.search(text)
    if not title:
        return
    headings = list(HEADING.finditer(text))
    ends = [following.start() for following in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):  # a module without headings has an end and no beginning
        answer = first_paragraph(text[heading.end() : end])
        signature = heading["name"] + (heading["arguments"] or "")
        if not MIN_ANSWER_CHARACTERS <= len(answer) <= MAX_ANSWER_CHARACTERS:
            continue
        questions = CLASS_QUESTIONS if heading["kind"] == "class" else DEF_QUESTIONS
        fitting = questions if len(signature) <= MAX_SIGNATURE_CHARACTERS else questions[:1]
        question = fitting[_hash(f"{title['module']}\n{signature}") % len(fitting)]
        prompt = question.format(name=heading["name"], signature=signature, module=title["module"])
        yield Pair(prompt, answer)


def first_paragraph(text: str) -> str:
    """The text up to its first empty line, with its lines joined."""
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        if not line.strip():
            if lines:
                break
            continue
        lines.append(line.strip())
    return " ".join(lines)


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a JSONL file.

    Raises:
        UserError: the file cannot be read, or naming the line that is not a pair.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=path, next_step="check finetune.data.path") from None
    return parse_pairs(text, path)


def parse_pairs(text: str, name: str) -> list[Pair]:
    """Pairs from JSON lines; empty lines are passed over.

    Raises:
        UserError: naming the line that is not a pair.
    """
    lines = enumerate(text.split("\n"), start=1)
    return [_read_pair(line, f"{name}:{number}") for number, line in lines if line.strip()]


def _read_pair(line: str, where: str) -> Pair:
    advice = 'write one object a line: {"prompt": "…", "completion": "…"}'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"not valid JSON: {error}", where=where, next_step=advice) from None
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=where, next_step=advice)
    for field in ("prompt", "completion"):
        if not isinstance(value.get(field), str) or not value[field].strip():
            raise UserError(f"{field} is missing, empty or not text", where=where, next_step=advice)
    return Pair(value["prompt"], value["completion"])


def choose(pairs: Iterable[Pair], limit: int | None = None) -> list[Pair]:
    """Every different pair once, in the order of a stable hash, at most ``limit``; the order of the input is lost."""
    ordered = sorted(set(pairs), key=lambda pair: (_hash(pair.prompt), pair.prompt, pair.completion))
    return ordered[:limit]


def split(pairs: Sequence[Pair], validation_fraction: float) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs. A prompt is wholly on one side, decided by its hash; neither side is empty.

    Raises:
        UserError: there are fewer than two different prompts.
    """
    prompts = sorted({pair.prompt for pair in pairs}, key=lambda prompt: (_hash(prompt, seed=1), prompt))
    if len(prompts) < 2:
        raise UserError(
            f"{len(prompts)} question-answer pairs are too few to train and validate on",
            where="finetune.data",
            next_step="add documentation with docstrings to the corpus, or give a JSONL file with more pairs",
        )
    border = validation_fraction * 2**64
    held_out = {prompt for prompt in prompts if _hash(prompt, seed=1) < border} or {prompts[0]}
    if len(held_out) == len(prompts):
        held_out = {prompts[0]}
    train = [pair for pair in pairs if pair.prompt not in held_out]
    return train, [pair for pair in pairs if pair.prompt in held_out]


def to_jsonl(pairs: Iterable[Pair]) -> str:
    """Pairs as JSON lines."""
    return "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)


def _hash(text: str, seed: int = 0) -> int:
    return xxhash.xxh64_intdigest(text.encode("utf-8"), seed=seed)
