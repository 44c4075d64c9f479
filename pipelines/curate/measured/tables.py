"""``scores/``: a row for each document of the corpus, kept or dropped, with what was measured until it was decided.

A null was not asked for: a rule before it had dropped the document. The README has the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cluster.store import Store, Written
from pipelines.corpus.table import decode, encode
from pipelines.curate.config import CurateConfig
from pipelines.curate.quality_chain import QualityChain


def score_schema(config: CurateConfig) -> pa.Schema:
    """The columns for a recipe."""
    fields = [("id", pa.string()), ("source", pa.string()), ("drop_reason", pa.string()), ("characters", pa.int64())]
    fields += [("language", pa.string()), ("language_confidence", pa.float64())]
    for name, rules in QualityChain(config).sets.items():
        fields += [(f"{name}.{score}", pa.float64()) for score in dict.fromkeys(each.score for each in rules.limits)]
        if name == "c4":
            fields += [("c4.lines", pa.int64()), ("c4.characters", pa.int64())]
    if config.classifier is not None:
        fields.append(("quality_score", pa.float64()))
    if config.filters:
        fields.append(("filter", pa.string()))
    if config.audit is not None and config.audit.drop_above is not None:
        fields.append(("toxicity", pa.float64()))
    if config.decontaminate is not None:
        fields.append(("benchmark_ngrams", pa.list_(pa.int32())))
    return pa.schema(fields)


def write_scores(store: Store, key: str, rows: list[dict[str, Any]], config: CurateConfig) -> Written:
    """Write the scores of a part's documents."""
    return store.write_summed(key, encode(pa.Table.from_pylist(rows, schema=score_schema(config))))


def read_kept(store: Store, key: str, wanted: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
    """Id -> column -> value of the documents in a table; nulls are left out.

    Args:
        wanted: whether to read a column, by its name.
    """
    table = decode(store.read(key))
    names = ["id", *(name for name in table.column_names if wanted(name))]
    return {
        row.pop("id"): {name: value for name, value in row.items() if value is not None}
        for row in table.select(names).to_pylist()
    }
