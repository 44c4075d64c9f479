"""A corpus table of another's making may hold rows without a text: they are counted, and nothing stops."""

from __future__ import annotations

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.documents import Document
from pipelines.corpus.table import decode, encode, to_table
from pipelines.curate.config import CurateConfig
from pipelines.curate.tag import TagPart, WorkKeys, tag_part


def test_a_row_without_a_text_goes_with_its_reason(store: Store) -> None:
    table = to_table([Document("a", "one", "MIT", {}), Document("b", "a real text", "MIT", {})], "notes")
    place = table.schema.get_field_index("text")
    text = pa.array([None if value == "one" else value for value in table["text"].to_pylist()], pa.large_string())
    store.write("part", encode(table.set_column(place, pa.field("text", pa.large_string()), text)))
    config = CurateConfig.model_validate({"language": [], "repetition": None, "quality": []})
    work = WorkKeys.of("work", 0)
    summary = tag_part(TagPart(0, "part", work), config=config, store=store)
    assert summary.dropped == {"text.missing": 1}
    assert [row["text"] for row in decode(store.read(work.tagged)).to_pylist()] == ["a real text\n"]
    assert summary.before.documents["all", "all"] == 2
