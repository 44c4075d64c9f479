"""The examples of a run, by part: where its workers read them, and beside its result."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.stage import StageContext


def keep_parts(parts: Mapping[str, str], context: StageContext) -> dict[str, str]:
    """Part -> the store key where workers find it.

    Args:
        parts: name -> JSON lines. They are also written to ``examples/`` of the result.
    """
    keys = {}
    for name, lines in parts.items():
        keys[name] = context.output.resume_key(f"examples/{name}.jsonl")
        context.store.write(keys[name], lines.encode("utf-8"))
        context.output.write_text(f"examples/{name}.jsonl", lines)
    return keys
