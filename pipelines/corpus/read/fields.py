"""From a record (JSON object, table row) to a document, by the fields that the source names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.corpus.documents import Document, Item, Problem, clean_unicode
from pipelines.corpus.source import RecordSource

_ABSENT = object()
_SHOWN_FIELDS = 12


def to_document(
    record: Mapping[str, Any], source: RecordSource, item: Item, path: str, about: Mapping[str, Any], head: bytes = b""
) -> Document | Problem:
    """The record's document; its other fields, or those that are asked for, become metadata, ``about`` on top."""
    text = pick(record, source.text_field)
    if text is _ABSENT or text is None:
        what = f"has no text in the field {source.text_field!r}; its fields: {_names(record)}"
        return Problem(path, what, "no_text_field", head)
    if not isinstance(text, str):
        what = f"has no text in the field {source.text_field!r} but {type(text).__name__}"
        return Problem(path, what, "text_of_wrong_type", head)
    if source.metadata_fields is None:
        fields = {name: value for name, value in record.items() if name != source.text_field}
    else:
        picked = {name: pick(record, name) for name in source.metadata_fields}
        fields = {name: value for name, value in picked.items() if value is not _ABSENT}
    try:
        # Through JSON and back: lone surrogates, NaN and the infinities are in no JSON that others can read.
        text_of_fields = clean_unicode(json.dumps(fields, ensure_ascii=False, default=_plain))
        fields = json.loads(text_of_fields, parse_constant=lambda _: None)
    except (ValueError, TypeError, RecursionError) as error:
        return Problem(path, f"has fields that cannot be kept as metadata: {error}", "unusable_metadata", head)
    known = {}
    for name, field in (("record_id", source.id_field), ("licence", source.licence_field)):
        value = pick(record, field) if field else None
        if isinstance(value, str | int) and value != "" and not isinstance(value, bool):
            known[name] = clean_unicode(str(value))
    language = pick(record, source.language_field) if source.language_field else None
    named = {"record_id": known["record_id"]} if "record_id" in known else {}
    return Document(
        path,
        clean_unicode(text),
        known.get("licence") or item.licence,
        {**fields, **named, **item.metadata, **about},
        clean_unicode(language) if isinstance(language, str) and language else None,
    )


def pick(record: Mapping[str, Any], field: str) -> Any:
    """The value of a field, or of ``a.b`` inside it; a marker that is no value where there is none."""
    if field in record:
        return record[field]
    value: Any = record
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _names(record: Mapping[str, Any]) -> str:
    """Names of a record's fields, some where there are many; a repair begins with them."""
    some = [clean_unicode(str(name))[:40] for name in list(record)[:_SHOWN_FIELDS]]
    return ", ".join([*some, "…"] if len(record) > len(some) else some) or "none"


def _plain(value: Any) -> Any:
    """JSON for what tables hold besides JSON's own types: dates, decimals, arrays, bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    for method in ("isoformat", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)
