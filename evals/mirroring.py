"""Making a mirror: the datasets that some suites read, from the Hub or from a folder in its layout."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import InfraError, UserError
from evals.benchmarks import check_layout
from evals.hub_layout import config_patterns, split_files
from evals.mirror import README, Manifest, check_hashes, fetch_mirror, hash_files, write_mirror
from evals.official import HUB_REVISIONS, OfficialTask, official_tasks


def mirror_suites(source: str, destination: str, suites: Iterable[str], tasks_folder: str | None = None) -> Manifest:
    """Copy what the suites read to a folder or an S3 prefix, and write its manifest last.

    Args:
        source: ``hub``, a folder in the Hub's layout, or a mirror on S3.

    Raises:
        UserError: the source lacks something, is a mirror that is damaged, or the Hub is switched off.
        InfraError: the Hub cannot be reached.
    """
    tasks = [task for task in official_tasks(suites, tasks_folder) if task.dataset]
    with tempfile.TemporaryDirectory(prefix="raymill-mirror-") as folder:
        if source == "hub":
            root = _download(tasks, Path(folder))
        elif source.startswith("s3://"):
            root = fetch_mirror(source, _datasets(tasks))
        else:
            root = Path(source).expanduser()
        if not root.is_dir():
            raise UserError("no such folder", where=source, next_step="name a folder in the Hub's layout, or hub")
        check_layout(root, tasks, source)
        check_hashes(root, hash_files(root, _datasets(tasks)), _datasets(tasks))  # damage is not to be copied as right
        files = {path for dataset in _datasets(tasks) for path in _files(root, _of(tasks, dataset))}
        return write_mirror(root, files, destination)


def _of(tasks: Iterable[OfficialTask], dataset: str) -> list[OfficialTask]:
    return [task for task in tasks if task.dataset == dataset]


def _datasets(tasks: Iterable[OfficialTask]) -> list[str]:
    return sorted({task.dataset for task in tasks})


def _files(root: Path, tasks: list[OfficialTask]) -> list[str]:
    """README.md and every file of the configurations that the tasks of one dataset read."""
    folder = root / tasks[0].dataset
    paths = {folder / README}
    for config in {task.config for task in tasks}:
        paths.update(path for files in split_files(folder, config).values() for path in files)
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _download(tasks: list[OfficialTask], folder: Path) -> Path:
    """Fetch what the tasks read from the Hub, in its layout."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    for dataset in _datasets(tasks):
        target, revision = folder / dataset, HUB_REVISIONS.get(dataset)
        try:
            hf_hub_download(dataset, README, repo_type="dataset", revision=revision, local_dir=target)
            patterns = config_patterns(target, {task.config for task in _of(tasks, dataset)})
            snapshot_download(
                dataset, repo_type="dataset", revision=revision, local_dir=target, allow_patterns=patterns
            )
        except RepositoryNotFoundError as error:
            raise UserError(f"is not on the Hub: {str(error).splitlines()[0]}", where=dataset) from None
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise InfraError(
                f"cannot be downloaded: {str(error).strip().splitlines()[0]}",
                where=dataset,
                next_step="run this where the Hub can be reached, or copy from a folder with --from",
            ) from error
    return folder
