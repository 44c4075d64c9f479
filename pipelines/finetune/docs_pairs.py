"""Question-answer pairs from curated docstrings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from cluster.artifact import Artifact
from cluster.store import Store
from pipelines.finetune.examples.divide import stable_hash
from pipelines.finetune.examples.records import Conversation, dialogue

DOCSTRING = "docstring"
"""What the metadata of a document made of docstrings calls its kind, whatever the recipe calls its source."""

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


def docstring_pairs(text: str) -> Iterator[Conversation]:
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
        question = fitting[stable_hash(f"{title['module']}\n{signature}") % len(fitting)]
        prompt = question.format(name=heading["name"], signature=signature, module=title["module"])
        yield dialogue(prompt, answer, f"{title['module']}.{heading['name']}")


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


def training_texts(corpus: Artifact, store: Store) -> Iterator[str]:
    """Docstrings of the training split; what curation held out stays unseen by every kind of training."""
    import pyarrow.parquet as pq

    for entry in sorted(corpus.files, key=lambda entry: entry.path):
        if entry.path.startswith("train/") and entry.path.endswith(".parquet"):
            filesystem, path = store.arrow(corpus.key(entry.path))
            with filesystem.open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(1024, columns=["text", "metadata"]):
                    for text, metadata in zip(batch["text"].to_pylist(), batch["metadata"].to_pylist(), strict=True):
                        if json.loads(metadata).get("kind") == DOCSTRING:
                            yield text
