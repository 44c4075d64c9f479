"""The report's section on what each rule dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.report import Page
from pipelines.curate.marks.meaning import meaning
from pipelines.curate.samples.choose import SAMPLES
from pipelines.curate.samples.sample import Sample

SHOWN_AT_ONCE = 3
"""Samples of a reason that are shown before more are asked for."""


def samples_section(page: Page, dropped: Mapping[str, int], samples: Mapping[str, Sequence[Sample]]) -> None:
    """Add the samples of every reason, in the funnel's order."""
    page.heading("What each rule dropped")
    page.paragraph(
        f"Up to {SAMPLES} documents of each reason, those whose ids have the smallest hashes: the same ones however "
        "often it runs. What offends is marked; personal data is replaced by placeholders in every sample."
    )
    unshown = [reason for reason in dropped if reason not in samples]
    for reason, count in dropped.items():
        if reason in unshown:
            continue
        own = samples[reason]
        said = "" if meaning(reason) == reason else f" - {meaning(reason)}"
        with page.folded(f"{reason}: {count:,} document{'' if count == 1 else 's'}{said}", is_open=True, is_part=True):
            for sample in own[:SHOWN_AT_ONCE]:
                _add(page, sample)
            if len(own) > SHOWN_AT_ONCE:
                with page.folded(f"{len(own) - SHOWN_AT_ONCE} more of {reason}"):
                    for sample in own[SHOWN_AT_ONCE:]:
                        _add(page, sample)
    if unshown:
        page.paragraph(f"No samples are shown of {len(unshown):,} more reasons.")


def _add(page: Page, sample: Sample) -> None:
    columns: list[tuple[str, Sequence[tuple[str, bool]]]] = []
    if sample.keeper:
        columns = [("dropped", sample.pieces), (f"stays: {sample.keeper}", sample.beside)]
    elif sample.pieces:
        columns = [("", sample.pieces)]
    page.specimen(f"{sample.source}: {sample.path} · {sample.id}", sample.note, columns)
