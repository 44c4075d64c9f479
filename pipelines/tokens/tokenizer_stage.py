"""The stage ``tokenizer``: learn a vocabulary, or take an existing one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from cluster.store import Store
from pipelines.tokens.config import TokenizerConfig
from pipelines.tokens.special import CHAT_TEMPLATE, MASK, special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def make_tokenizer(config: TokenizerConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Learn a vocabulary from the curated training split, or take the one that the recipe names.

    Raises:
        UserError: the split is empty, or the existing tokenizer cannot be used.
    """
    from tokenizers import Tokenizer

    from pipelines.tokens.marks import read_marks, vocabulary_size

    corpus = inputs["corpus"]
    folder = context.output.path("tokenizer.json").parent
    if config.source is None:
        subtitle, counts, details = _learn(config, corpus, context, folder)
    else:
        subtitle, counts, details = _take(config, config.source, context, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    marks = read_marks(folder)
    specials = {tokenizer.id_to_token(number): number for number in sorted(marks.special)}
    size = vocabulary_size(tokenizer)
    page = Page("Tokenizer", subtitle)
    page.figures({"tokens": size, **{name.replace("_", " "): value for name, value in counts.items()}})
    page.heading("Special tokens")
    page.table([{"token": token, "id": number} for token, number in specials.items()])
    page.heading("Lengths of tokens")
    page.bar_chart("tokens by the characters that they stand for", _token_lengths(tokenizer, marks.special))
    page.heading("The longest tokens")
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (-len(item[0]), item[1]))[:40]
    page.table([{"id": number, "token": tokenizer.decode([number])} for _, number in vocabulary])
    template = details.pop("chat_template")
    page.heading("Conversations")
    page.sample("chat template", template or "None: the tokenizer brings none; set tokenizer.chat_template to chat.")
    context.output.write_text("report.html", page.render())
    return Outcome(
        counts={"vocab_size": size, **counts},
        licences=dict(corpus.licences) if config.source is None else {},
        details={"special_tokens": specials, **details},
    )


Made = tuple[str, dict[str, int], dict[str, Any]]
"""The page's subtitle, counts, and details."""


def _learn(config: TokenizerConfig, corpus: Artifact, context: StageContext, folder: Path) -> Made:
    from pipelines.tokens.folder import write_folder
    from pipelines.tokens.learn import learn_bpe, learn_unigram

    chosen, text_bytes = _choose_documents(context.store, corpus, config.max_training_bytes)
    if not chosen:
        raise UserError(
            "there is no training text to learn a vocabulary from",
            where=context.store.uri(corpus.id),
            next_step="look at the curation report for what dropped the documents, and relax it or add sources",
        )
    special = special_tokens(mask=config.mask_token, own=config.special_tokens, sentinels=config.sentinels)
    with context.progress.step("learn the vocabulary", len(chosen), "documents") as tracker:
        done = 0

        def texts() -> Iterator[str]:
            nonlocal done
            for document_id, text in _documents(context.store, corpus):
                if document_id in chosen:
                    done += 1
                    tracker.update(done)
                    yield text

        if config.algorithm == "bpe":
            tokenizer = learn_bpe(texts(), config.vocab_size, config.min_frequency, special)
        else:
            tokenizer = learn_unigram(texts(), config.vocab_size, special)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        context.progress.note(
            f"the corpus gives {size:,} tokens, fewer than vocab_size {config.vocab_size:,}: it holds no more "
            "pieces that occur often enough"
        )
    template = config.chat_template or CHAT_TEMPLATE
    write_folder(tokenizer, folder, special, template)
    name = "byte-level BPE" if config.algorithm == "bpe" else "byte-level unigram model"
    counts = {"training_documents": len(chosen), "training_bytes": text_bytes}
    return f"{name} learned from {len(chosen):,} documents of {corpus.id}", counts, {"chat_template": template}


def _take(config: TokenizerConfig, source: str, context: StageContext, folder: Path) -> Made:
    from pipelines.tokens.existing import take_tokenizer
    from pipelines.tokens.marks import SENTINEL

    take_tokenizer(
        source,
        context.store,
        folder,
        mask=MASK if config.mask_token else None,
        special=[*config.special_tokens, *(SENTINEL.format(number) for number in range(config.sentinels))],
        chat_template=config.chat_template,
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = settings.get("chat_template") or ""
    if not template and (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(template, str):  # older tokenizers name several
        template = json.dumps(template)
    return f"existing: {source}", {}, {"chat_template": template, "source": source}


def _token_lengths(tokenizer: Tokenizer, special: frozenset[int]) -> dict[str, float]:
    lengths: dict[int, int] = {}
    for text, number in tokenizer.get_vocab().items():
        if number not in special:
            lengths[len(text)] = lengths.get(len(text), 0) + 1
    return {str(length): lengths[length] for length in sorted(lengths)[:24]}


def _documents(store: Store, corpus: Artifact) -> Iterator[tuple[str, str]]:
    """Id and text of every training document, in the order of the files."""
    import pyarrow.parquet as pq

    for entry in sorted(corpus.files, key=lambda entry: entry.path):
        if entry.path.startswith("train/") and entry.path.endswith(".parquet"):
            filesystem, path = store.arrow(corpus.key(entry.path))
            with filesystem.open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(1024, columns=["id", "text"]):
                    yield from zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)


def _choose_documents(store: Store, corpus: Artifact, limit: int) -> tuple[set[str], int]:
    """Documents in the order of their hash until ``limit`` bytes; their ids and bytes."""
    from pipelines.tokens.packing import order_key

    sizes = {document_id: len(text.encode("utf-8")) for document_id, text in _documents(store, corpus)}
    chosen: set[str] = set()
    total = 0
    for document_id in sorted(sizes, key=lambda each: (order_key(each), each)):
        if chosen and total + sizes[document_id] > limit:
            break
        chosen.add(document_id)
        total += sizes[document_id]
    return chosen, total
