"""``measured/survey/``: what the report's survey has measured in the texts of documents that stay.

A text that stays is not the document that came in: personal data and passages are gone from it. So each row says which
text it is about, and speaks of that one only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import xxhash

from cluster.store import Store
from pipelines.corpus.table import part_name
from pipelines.curate.measured.tables import read_kept

SURVEY = "measured/survey"
DIGEST = "text_digest"
"""XXH3 of the text, 128 bits."""


def survey_name(part: int) -> str:
    """The file of a part, where any of its documents was looked at."""
    return part_name(SURVEY, part)


def survey_schema(scores: Iterable[str]) -> pa.Schema:
    """The columns, where those scores are looked at."""
    fields = [("id", pa.string()), (DIGEST, pa.binary(16)), ("characters", pa.int64())]
    fields += [("language", pa.string()), ("language_confidence", pa.float64())]
    return pa.schema([*fields, *((name, pa.float64()) for name in scores)])


def digest_of(text: str) -> bytes:
    """What a text is known by."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


def load_survey(store: Store, key: str) -> Mapping[str, Mapping[str, Any]]:
    """Id -> column -> value, of a part's documents that were looked at; empty where there is no such file."""
    return read_kept(store, key, lambda name: name != "id") if store.exists(key) else {}
