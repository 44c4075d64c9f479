"""Parts that are read stay read: each is committed by the worker that read it, and the next try takes it over.

A part's files lie in a folder of their own below the try's ``resume/``, named by the code that reads and by what was
read; ``done.json`` beside them is written last and holds the part's summary. When a source is complete its files are
put under their names in the artifact, which on a local disk makes links and in S3 copies inside the bucket.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.attempt import RESUME, Attempt
from cluster.store import Store
from pipelines.corpus.code import code_digest
from pipelines.corpus.part import Part, read_part
from pipelines.corpus.source import SourceBase
from pipelines.corpus.summary import PartSummary

_DONE = "done.json"
_COPIES = 16


def read_and_commit(
    part: Part, *, source: SourceBase, name: str, part_bytes: int, store: Store, parts_key: str
) -> PartSummary:
    """Read a part and commit it below a try's folder of parts, :attr:`FinishedParts.key`.

    Raises:
        UserError, InfraError: as read_part.
    """
    folder = f"{parts_key}/{part.digest(name)}"
    summary = read_part(part, source=source, name=name, part_bytes=part_bytes, store=store, prefix=folder)
    store.write(f"{folder}/{_DONE}", summary.encode())
    return summary


class FinishedParts:
    """What earlier tries at the artifact have read, and what this one reads.

    Attributes:
        key: of the folder that this try's parts go to.
    """

    def __init__(self, output: Attempt) -> None:
        self._output = output
        self._store = output.store
        self._folders: dict[str, str] = {}
        folder_name = f"parts-{code_digest(Path(__file__).parent)}"
        self.key = output.resume_key(folder_name)
        for prefix in reversed(output.earlier()):
            for file in self._store.files(f"{prefix}/{RESUME}/{folder_name}/"):
                folder, _, name = file.key.rpartition("/")
                if name == _DONE:
                    self._folders[folder.rpartition("/")[2]] = folder

    def take_over(self, parts: Iterable[Part], source: str) -> list[PartSummary]:
        """The summaries of those parts that an earlier try has read; their files are in this one's artifact then."""
        known = [folder for part in parts if (folder := self._folders.get(part.digest(source)))]
        with ThreadPoolExecutor(_COPIES) as pool:
            return [summary for summary in pool.map(self._take, known) if summary is not None]

    def place(self, parts: Iterable[tuple[Part, PartSummary]], source: str) -> None:
        """Put the files of parts that this try has read under their names in the artifact."""
        with ThreadPoolExecutor(_COPIES) as pool:
            folders = ((f"{self.key}/{part.digest(source)}", each) for part, each in parts)
            for _ in pool.map(lambda pair: self._copy(*pair), folders):
                continue

    def _take(self, folder: str) -> PartSummary | None:
        try:
            summary = PartSummary.decode(self._store.read(f"{folder}/{_DONE}"))
            self._copy(folder, summary)
        except FileNotFoundError:  # a run beside this one has published, and removed what earlier tries left
            return None
        return summary

    def _copy(self, folder: str, summary: PartSummary) -> None:
        for name in summary.files:
            self._store.copy(f"{folder}/{name}", self._output.key(name))
