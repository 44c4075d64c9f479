"""Deduplication of a corpus from its signatures: match, join, decide - each by workers, none of which has it all.

The driver hands out key ranges and holds the names of files and counts. A worker holds about ``dedup.memory_bytes`` of
records; a larger corpus makes more ranges, not larger ones.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cluster.store import Store
from pipelines.curate.components import Mapper, find_components
from pipelines.curate.config import DedupConfig
from pipelines.curate.decisions import Decisions
from pipelines.curate.keepers import Kept, keep_range, member_part
from pipelines.curate.match import Matched, match_range
from pipelines.curate.repeated_text import passage_part, repeat_range
from pipelines.curate.runs import in_order, range_parts
from pipelines.curate.signatures import Signed, TablePart, sign_earlier

LARGEST_CLUSTERS = 10


@dataclass(frozen=True)
class Found:
    """What deduplication decided.

    Attributes:
        duplicates: documents that go.
        largest: id of a document that stays -> how many go for it, most first, then by id.
        rounds: of joining edges to components.
        sizes: bits of the number of documents in a group, the one that stays included -> groups.
    """

    decisions: Decisions = field(default_factory=Decisions)
    duplicates: int = 0
    largest: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    sizes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Deduplication:
    """The steps over one corpus.

    Attributes:
        prefix: key of the folder for files between steps.
        signed: of each part of the corpus, in order.
        earlier: keys of the published tables of corpora curated earlier.
    """

    config: DedupConfig
    store: Store
    prefix: str
    map_parts: Mapper
    signed: Sequence[Signed]
    earlier: Sequence[str] = ()

    def find(self) -> Found:
        """Decide about every document; see the module's text."""
        tables = [*self.signed, *self._earlier()]
        matched = self._match(tables)
        edges = in_order(each.edges for each in matched)
        if not edges:
            return Found()
        labels, rounds = find_components(
            edges,
            store=self.store,
            prefix=f"{self.prefix}/rounds",
            memory_bytes=self.config.memory_bytes,
            map_parts=self.map_parts,
        )
        parts = [TablePart(number, each.table_key) for number, each in enumerate(tables)]
        longest = max(each.id_bytes for each in tables)
        members = in_order(self._run(member_part, "members", parts, labels=labels, id_bytes=longest))
        kept: list[Kept] = self._run(
            keep_range,
            "losers",
            range_parts(members, self.config.memory_bytes),
            members=members,
            first_earlier=len(self.signed),
            count_largest=LARGEST_CLUSTERS,
        )
        sizes = [item for each in kept for item in each.largest.items()]
        losers, exact = in_order(each.decisions for each in kept), in_order(each.marks for each in matched)
        return Found(
            Decisions(losers=tuple(losers), exact=tuple(exact)),
            sum(each.duplicates for each in kept),
            dict(heapq.nsmallest(LARGEST_CLUSTERS, sizes, key=lambda item: (-item[1], item[0]))),
            rounds,
            sum((each.sizes for each in kept), Counter[int]()),
        )

    def find_repeats(self, tagged_keys: Sequence[str], found: Found) -> Found:
        """What was found, and which passages of documents that stay go (as ``dedup.repeated_text`` says)."""
        config = self.config.repeated_text
        if config is None:
            return found
        parts = [TablePart(number, key) for number, key in enumerate(tagged_keys)]
        longest = max((each.id_bytes for each in self.signed), default=1)
        passages = in_order(
            self._run(passage_part, "passages", parts, decisions=found.decisions, config=config, id_bytes=longest)
        )
        ranges = range_parts(passages, self.config.memory_bytes)
        repeats = in_order(self._run(repeat_range, "repeats", ranges, passages=passages))
        return replace(found, decisions=replace(found.decisions, repeats=tuple(repeats)))

    def _earlier(self) -> list[Signed]:
        parts = [TablePart(len(self.signed) + i, key) for i, key in enumerate(self.earlier)]
        work = partial(sign_earlier, config=self.config, store=self.store, prefix=f"{self.prefix}/earlier")
        return sorted(self.map_parts("earlier", work, parts), key=lambda each: self.earlier.index(each.table_key))

    def _match(self, tables: Sequence[Signed]) -> list[Matched]:
        exact = [run for each in tables for run in each.exact]
        bands = [run for each in tables for run in each.bands]
        if not exact and not bands:
            return []
        ranges = range_parts([*exact, *bands], self.config.memory_bytes)
        return self._run(match_range, "matches", ranges, exact=exact, bands=bands, first_earlier=len(self.signed))

    def _run(self, work: Callable[..., Any], folder: str, parts: Sequence[Any], **arguments: Any) -> list[Any]:
        call = partial(
            work,
            store=self.store,
            prefix=f"{self.prefix}/{folder}",
            memory_bytes=self.config.memory_bytes,
            **arguments,
        )
        return list(self.map_parts(folder, call, parts))
