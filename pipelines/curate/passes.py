"""The passes of curation over the parts of a corpus, in order: tag, find duplicates, write, mix, mark samples.

The driver holds sums and names of files, whatever the corpus's size; every finished part stays finished.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from cluster.artifact import Artifact
from cluster.errors import InternalError
from cluster.stage import StageContext
from pipelines.corpus.table import part_name
from pipelines.curate.accounts import Benchmarks
from pipelines.curate.classifier.training import Trained
from pipelines.curate.config import CurateConfig
from pipelines.curate.decisions import REPEATED
from pipelines.curate.dedup import Deduplication, Found
from pipelines.curate.finished import Finished, copy
from pipelines.curate.measured.memory import BANDS, SCORES, TEXTS, Memory
from pipelines.curate.mix.run import MixPart, Mixture, mix_parts
from pipelines.curate.samples.choose import merge
from pipelines.curate.samples.explain import explain
from pipelines.curate.samples.sample import Sample
from pipelines.curate.signatures import Signed
from pipelines.curate.split import TRAIN, VALIDATION
from pipelines.curate.survey import survey_share
from pipelines.curate.tag import TagPart, TagSummary, WorkKeys, tag_part
from pipelines.curate.write import WritePart, WriteSummary, write_part

OUTPUT = "output"
"""Folder of what is published in the end, among the files between steps."""


@dataclass
class Tagged:
    """What the first pass gave: the sum of all parts, and what deduplication compares each by."""

    whole: TagSummary = field(default_factory=lambda: TagSummary(0))
    signed: list[Signed] = field(default_factory=list)


@dataclass(frozen=True)
class Passes:
    """The passes over one corpus.

    Attributes:
        finished: runs functions over parts, and keeps what they gave.
        map_parts: runs functions over parts where it need not be kept.
        earlier: keys of the signature tables of corpora curated earlier.
        memory: what an earlier run over the same corpus has measured.
    """

    config: CurateConfig
    corpus: Artifact
    context: StageContext
    finished: Finished
    map_parts: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
    benchmarks: Benchmarks | None
    trained: Trained | None
    earlier: list[str]
    memory: Memory | None = None

    def tag(self) -> Tagged:
        """Clean and judge every document, and hash what survives."""
        parts = [TagPart(number, key, self._work(number)) for number, key in enumerate(self._sources)]
        work = functools.partial(
            tag_part,
            config=self.config,
            store=self.context.store,
            survey_share=self._survey_share,
            memory=self.memory,
            **self._models,
        )
        tagged = Tagged()
        done = kept = 0
        with self._step("clean and judge", self.corpus.counts.get("documents")) as tracker:

            def told(summaries: Iterable[TagSummary]) -> Iterator[TagSummary]:
                nonlocal done, kept
                for summary in summaries:
                    done += summary.documents
                    kept += summary.survivors
                    tracker.update(done, kept=kept, dropped=done - kept)
                    yield summary

            for summary in in_order(told(self.finished.map("tag", work, parts))):
                assert summary.signed is not None
                tagged.whole.merge(summary)
                tagged.signed.append(summary.signed)
        return tagged

    def find_duplicates(self, tagged: Tagged) -> Found:
        """Decide which of the survivors go as duplicates, and which passages of the others."""
        survivors = tagged.whole.survivors
        shares = 0

        def mapper(step: str, function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
            nonlocal shares
            for result in self.finished.map(f"duplicates/{step}", function, parts):
                shares += 1
                tracker.update(shares_done=shares)
                yield result

        with self._step("find duplicates", survivors) as tracker:
            prefix = self.finished.key("duplicates")
            steps = Deduplication(self.config.dedup, self.context.store, prefix, mapper, tagged.signed, self.earlier)
            found = steps.find_repeats(self._tagged_keys, steps.find())
            tracker.update(survivors, kept=survivors - found.duplicates, dropped=found.duplicates)
        return found

    def write(self, tagged: Tagged, found: Found) -> WriteSummary:
        """Write what stays and what goes."""
        work = functools.partial(
            write_part,
            config=self.config,
            found=found,
            store=self.context.store,
            prefix=self.finished.key(OUTPUT),
            survey_share=self._survey_share,
            memory=self.memory,
        )
        expected = tagged.whole.survivors - found.duplicates
        parts = [WritePart(number, self._work(number)) for number in range(len(self._sources))]
        whole = WriteSummary(0)
        done = 0
        with self._step("write", expected) as tracker:
            for summary in in_order(self.finished.map("write", work, parts)):
                whole.merge(summary)
                done += summary.written.total() + summary.dropped[REPEATED]
                tracker.update(done)
            moves = self._moves(whole)
            for again in self.finished.map("moves", work, moves):
                whole.files |= again.files
        if done != expected:
            raise InternalError(
                f"{done:,} documents were written and {expected:,} decided to be kept",
                where="curate",
                next_step="report it",
            )
        for split in (split for each in moves for split in each.moved.values()):
            whole.written[split] += 1
            whole.written[TRAIN if split == VALIDATION else VALIDATION] -= 1
        return whole

    def mix(self) -> Mixture | None:
        """Mix the training split, where the recipe asks for it."""
        if self.config.mix.does_nothing:
            return None
        parts = [MixPart(number, self._work(number).unmixed) for number in range(len(self._sources))]
        output = self.finished.key(OUTPUT)
        with self.context.progress.step("mix", total=None):
            return mix_parts(self.config, parts, self.context.store, output, self.finished.map, self._survey_share)

    def explain(self, written: WriteSummary, mixture: Mixture | None) -> dict[str, list[Sample]]:
        """Mark the documents that the report shows; few, so they are marked anew each time."""
        chosen = merge([written.candidates, *([mixture.summary.candidates] if mixture else [])])
        with self.context.progress.step("mark samples", total=None):
            return explain(
                self.config,
                self.context.store,
                chosen,
                sources=self._sources,
                tagged=self._tagged_keys,
                earlier=self.earlier,
                mapper=self.map_parts,
                **self._models,
            )

    def publish(self) -> None:
        """Put what was written among the files of the artifact, and beside it what was measured."""
        output = self.context.output
        with self.context.progress.step("put in place", total=None):
            self.finished.publish(OUTPUT, output.prefix)
            pairs = []
            for number in range(len(self._sources)):
                work = self._work(number)
                pairs.append((work.scores, output.key(part_name(SCORES, number))))
                if self.config.keep_measured:
                    pairs.append((work.tagged, output.key(part_name(TEXTS, number))))
                    pairs.append((work.signatures, output.key(part_name(BANDS, number))))
            copy(self.context.store, pairs)

    @property
    def _models(self) -> dict[str, Any]:
        return {
            "benchmarks": self.benchmarks.key if self.benchmarks else None,
            "classifier": self.trained.key if self.trained else None,
        }

    @property
    def _survey_share(self) -> float:
        return survey_share(self.corpus.counts.get("documents", 0))

    @functools.cached_property
    def _sources(self) -> list[str]:
        names = sorted(file.path for file in self.corpus.files if file.path.startswith("data/"))
        return [self.corpus.key(name) for name in names]

    @property
    def _tagged_keys(self) -> list[str]:
        return [self._work(number).tagged for number in range(len(self._sources))]

    def _work(self, number: int) -> WorkKeys:
        return WorkKeys.of(self.finished.key("tagged"), number)

    def _step(self, label: str, total: float | None) -> Any:
        return self.context.progress.step(label, total=total, unit="documents")

    def _moves(self, written: WriteSummary) -> list[WritePart]:
        """The parts to write again so that both splits have a document, where two are kept and both are wanted.

        Then the document of the lowest position goes to validation, or that of the highest to train.
        """
        counts = written.written
        if counts.total() < 2 or self.config.validation_fraction == 0:
            return []
        moved: dict[int, dict[str, str]] = {}
        if not counts[VALIDATION] and written.lowest:
            _, name, part = written.lowest
            moved.setdefault(part, {})[name] = VALIDATION
        if not counts[TRAIN] and written.highest:
            _, name, part = written.highest
            moved.setdefault(part, {})[name] = TRAIN
        return [WritePart(part, self._work(part), names) for part, names in sorted(moved.items())]


class _Numbered(Protocol):
    number: int


NumberedT = TypeVar("NumberedT", bound=_Numbered)


def in_order(summaries: Iterable[NumberedT]) -> Iterator[NumberedT]:
    """Summaries that come as workers finish, in the order of their numbers from 0: early ones wait for their turn."""
    waiting: dict[int, NumberedT] = {}
    following = 0
    for summary in summaries:
        waiting[summary.number] = summary
        while following in waiting:
            yield waiting.pop(following)
            following += 1
