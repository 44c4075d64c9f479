"""The stage ``tokens``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from pipelines.tokens.config import TokensConfig

if TYPE_CHECKING:
    from pipelines.tokens.ledger import Ledger
    from pipelines.tokens.packing import Packer
    from pipelines.tokens.statistics import CorpusStatistics


def encode(config: TokensConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Encode and pack both splits.

    Raises:
        UserError: a split is empty or shorter than one prediction.
    """
    from tokenizers import Tokenizer

    from pipelines.tokens.encode import SPLITS, encode_splits
    from pipelines.tokens.ledger import Ledger, take_over
    from pipelines.tokens.marks import find_marks, vocabulary_size
    from pipelines.tokens.packing import Packer, TokenBlocks
    from pipelines.tokens.statistics import CorpusStatistics, rank_frequency, token_counts, unigram_loss

    corpus, tokenizer_artifact = inputs["corpus"], inputs["tokenizer"]
    tokenizer_json = context.store.read(tokenizer_artifact.key("tokenizer.json")).decode("utf-8")
    settings = json.loads(context.store.read(tokenizer_artifact.key("tokenizer_config.json")))
    tokenizer = Tokenizer.from_str(tokenizer_json)
    marks = find_marks(tokenizer, settings, tokenizer_artifact.id)
    vocab_size = vocabulary_size(tokenizer)
    ids: dict[str, Any] = {"bos_id": marks.bos, "eos_id": marks.eos, "pad_id": marks.pad}
    folders = {split: context.output.path(f"{split}/index.json").parent for split in SPLITS}
    spool = take_over(context.store, context.output)
    packers = {
        split: Packer(folder, vocab_size=vocab_size, scratch=spool and spool / f"{split}.bin", **ids)
        for split, folder in folders.items()
    }
    statistics = CorpusStatistics()
    ledger = Ledger(spool, marks.around) if spool else None
    done = _restore(ledger, packers, statistics) if ledger else []
    if done:
        context.progress.note(f"{len(done):,} documents were encoded before this stage was stopped, and are kept")
    with context.progress.step("encode", corpus.counts.get("documents"), "documents") as tracker:
        tokens = 0
        tracker.update(advance=len(done), tokens=tokens)
        for batch in encode_splits(context.store, corpus, tokenizer_json, marks, config.workers, done):
            start = 0
            for split, document_id, length in zip(batch.splits, batch.ids, batch.lengths, strict=True):
                packers[split].add(document_id, batch.tokens[start : start + length])
                start += int(length)
            if ledger:
                for packer in packers.values():
                    packer.flush()
                ledger.write(batch)
            statistics.add(batch)
            tokens += start
            tracker.update(advance=len(batch.ids), tokens=tokens)
    indexes = {split: packer.finish(config.sequence_length) for split, packer in packers.items()}
    for split, index in indexes.items():
        if index.blocks == 0:
            raise UserError(
                f"the {split} split has no text",
                where=context.store.uri(corpus.id),
                next_step="raise curate.validation_fraction, relax curation, or add sources"
                if split == "validation"
                else "look at the curation report for what dropped the documents",
            )
    counted = {split: token_counts(TokenBlocks(folder), vocab_size) for split, folder in folders.items()}
    baseline = unigram_loss(counted["train"], counted["validation"])
    unused = [number for number in range(vocab_size) if counted["train"][number] + counted["validation"][number] == 0]
    counts = {f"{split}_{name}": value for split, index in indexes.items() for name, value in _sizes(index).items()}
    counts |= {"tokens": sum(index.tokens for index in indexes.values()), "unused_tokens": len(unused)}
    row = statistics.by_split["train"].row("train")
    metrics = {
        "train.tokens_per_word": row["tokens per word"],
        "train.bytes_per_token": row["bytes per token"],
        "validation.unigram_loss": baseline,
        "validation.unigram_perplexity": math.exp(baseline),
    }
    names = [tokenizer.decode([n], skip_special_tokens=False) or f"id {n}" for n in unused]
    curves = {split: rank_frequency(counted[split]) for split in folders}
    _report_tokens(context, config, statistics, counts, metrics, names, curves)
    return Outcome(
        counts=counts,
        metrics=metrics,
        licences=dict(corpus.licences),
        details={
            "splits": {split: asdict(index) for split, index in indexes.items()},
            "fertility": {
                kind: {name: tally.row(name) for name, tally in sorted(tallies.items())}
                for kind, tallies in (("source", statistics.by_source), ("language", statistics.by_language))
            },
        },
    )


def _restore(ledger: Ledger, packers: Mapping[str, Packer], statistics: CorpusStatistics) -> list[str]:
    """Count what an ended try packed; the ids of its documents."""
    batches = list(ledger.batches())
    rows = [row for batch in batches for row in zip(batch.splits, batch.ids, batch.lengths.tolist(), strict=True)]
    kept = [
        packer.restore((document_id, length) for place, document_id, length in rows if place == split)
        for split, packer in packers.items()
    ]
    if not all(kept):  # the machine stopped, and the file system kept less than it had taken
        for packer in packers.values():
            packer.restore([])
        ledger.forget()
        return []
    for batch in batches:
        statistics.add(batch)
    return [document_id for _, document_id, _ in rows]


def _sizes(index: Any) -> dict[str, int]:
    return {"tokens": index.tokens, "blocks": index.blocks, "documents": index.documents}


def _report_tokens(
    context: StageContext,
    config: TokensConfig,
    statistics: Any,
    counts: Mapping[str, int],
    metrics: Mapping[str, float],
    unused: list[str],
    curves: Mapping[str, list[tuple[float, float]]],
) -> None:
    page = Page("Tokens", f"blocks of {config.sequence_length:,} tokens, document boundaries kept")
    page.figures(
        {
            "training tokens": counts["train_tokens"],
            "validation tokens": counts["validation_tokens"],
            "training blocks": counts["train_blocks"],
            "tokens per word": metrics["train.tokens_per_word"],
            "bytes per token": metrics["train.bytes_per_token"],
            "unigram perplexity": metrics["validation.unigram_perplexity"],
        }
    )
    page.heading("Fertility")
    for title, tallies in (
        ("split", statistics.by_split),
        ("source", statistics.by_source),
        ("language", statistics.by_language),
    ):
        rows = [tally.row(name) for name, tally in sorted(tallies.items())]
        page.table(rows)
        if title != "split":
            page.bar_chart(f"tokens per word by {title}", {row["name"]: row["tokens per word"] for row in rows})
    page.heading("Lengths of documents")
    page.bar_chart("documents by length", statistics.length_histogram())
    page.heading("How often tokens occur")
    page.line_chart("tokens by frequency", curves, "log10 of the rank", "log10 of occurrences")
    page.heading("Unused tokens")
    page.paragraph(f"{len(unused):,} tokens of the vocabulary occur in neither split (special tokens among them).")
    if unused:
        page.sample("some of them", "  ".join(unused[:200]))
    context.output.write_text("report.html", page.render())
