"""Datasets in a folder laid out as on the Hugging Face Hub, read directly.

``<root>/<org>/<name>/README.md`` names each configuration's files in its front matter
(https://huggingface.co/docs/hub/datasets-manual-configuration); where it names none, the files' own names say which
split they belong to (https://huggingface.co/docs/hub/datasets-file-names-and-splits). Reading Parquet and JSON Lines
here, instead of through ``datasets.load_dataset``, needs no cache folder that could go stale and no lock, and is about
a hundred times quicker.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from evals.rows import Rows

ROWS = "raymill_rows"
"""Key of a task's metadata: the arguments of :func:`load_splits`."""

READABLE = (".parquet", ".jsonl")
DEFAULT_CONFIG = "default"
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def split_files(folder: Path, config: str) -> dict[str, list[Path]]:
    """Split -> its data files, in name order, of one configuration of the dataset in a folder.

    Raises:
        UserError: README.md or the configuration is missing, or the front matter cannot be read.
    """
    configs = _front_matter(folder)
    if configs:
        if config == DEFAULT_CONFIG and config not in configs and len(configs) == 1:
            config = next(iter(configs))
        if config in configs:
            return {
                split: sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
                for split, patterns in configs[config].items()
            }
    elif named := _by_name(folder if config == DEFAULT_CONFIG else folder / config):
        return named
    known = ", ".join(sorted(configs)[:6]) or "none"
    raise UserError(
        f"has no configuration {config} (it names: {known})",
        where=str(folder / "README.md"),
        next_step="copy the dataset's README.md and data files from the Hub, unchanged",
    )


def config_patterns(folder: Path, configs: Iterable[str]) -> list[str] | None:
    """Patterns of the files of some configurations, as the front matter names them; None (all) where it names none."""
    known = _front_matter(folder)
    wanted = [known[config] for config in configs if config in known]
    if len(wanted) < len(set(configs)):
        return None
    return sorted({pattern for splits in wanted for patterns in splits.values() for pattern in patterns})


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Split -> files whose names say so: ``test.jsonl``, ``data/test-00000-of-00001.parquet``, ``test/….parquet``."""
    found: dict[str, list[Path]] = {}
    for split, names in _SPLIT_NAMES.items():
        for name, place, suffix in itertools.product(names, ("", "data/"), READABLE):
            patterns = (f"{place}{name}{suffix}", f"{place}{name}[-_.]*{suffix}", f"{place}{name}/*{suffix}")
            files = {path for pattern in patterns for path in folder.glob(pattern)}
            if files:
                found[split] = sorted({*found.get(split, ()), *files})
    return found


@functools.lru_cache(maxsize=32)
def _parse(readme: Path, _stamp: int) -> dict[str, dict[str, list[str]]]:
    _, opening, rest = readme.read_text(encoding="utf-8").partition("---\n")
    try:
        header = yaml.load(
            rest.partition("\n---")[0] if opening else "", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        entries = [entry for entry in (header or {}).get("configs", ()) if "data_files" in entry]
        return {str(entry["config_name"]): _patterns(entry["data_files"]) for entry in entries}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(
            "its front matter does not list `configs:` with `data_files:` by split",
            where=str(readme),
            next_step="copy the dataset's README.md from the Hub, unchanged",
        ) from None


def _patterns(data_files: Any) -> dict[str, list[str]]:
    if isinstance(data_files, str):
        return {"train": [data_files]}
    by_split: dict[str, list[str]] = {}
    for item in data_files:
        split, path = ("train", item) if isinstance(item, str) else (item["split"], item["path"])
        by_split.setdefault(str(split), []).extend([path] if isinstance(path, str) else path)
    return by_split


def _front_matter(folder: Path) -> dict[str, dict[str, list[str]]]:
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(
            "is missing", where=str(readme), next_step="copy the dataset's README.md and data files from the Hub"
        )
    return _parse(readme, readme.stat().st_mtime_ns)


class LocalSplits(Mapping[str, "Dataset | Rows"]):
    """The splits of one configuration; each is read when it is first asked for.

    Args:
        plain: whether their reader only asks the questions, and needs no ``datasets.Dataset``.
    """

    def __init__(self, folder: Path, config: str, plain: bool = False) -> None:
        self._folder = folder
        self._plain = plain
        self._files = split_files(folder, config)
        self._loaded: dict[str, Dataset | Rows] = {}

    def __getitem__(self, split: str) -> Dataset | Rows:
        if split not in self._files:
            raise UserError(
                f"has no split {split} (it has: {', '.join(self._files) or 'none'})",
                where=str(self._folder),
                next_step="copy the dataset from the Hub again, or leave the suite out (evals.suites)",
            )
        if split not in self._loaded:
            rows = read_rows(self._files[split])
            self._loaded[split] = rows if self._plain and rows.is_plain else rows.dataset
        return self._loaded[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_rows(**metadata: Any) -> LocalSplits:
    """The hook that task files name as ``custom_dataset``; lm-eval passes the task's metadata, where ROWS says what."""
    return load_splits(**metadata[ROWS])


def load_splits(*, folder: str, config: str, plain: bool = False) -> LocalSplits:
    """The splits of one configuration of the dataset in a folder; see :class:`LocalSplits`."""
    return LocalSplits(Path(folder), config, plain)


def read_rows(files: list[Path]) -> Rows:
    """The rows of some files, in order, as ``datasets.load_dataset`` would give them.

    Raises:
        UserError: a file is not readable, or not in the format that its name says.
    """
    import pyarrow as pa

    from evals.rows import Rows

    tables = [_read_table(path) for path in files]
    # Given, because `datasets` would pickle every table to make one up, which takes longer than reading them all.
    stamps = [f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}" for path in files]
    fingerprint = hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]
    return Rows(tables[0] if len(tables) == 1 else pa.concat_tables(tables), fingerprint)


def _read_table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.read(use_threads=False)  # for files this small, starting threads is most of the work
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a question may hold U+2028
        return pa.Table.from_pylist([json.loads(line) for line in lines if line.strip()])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            next_step="copy the file from the Hub again",
        ) from None
