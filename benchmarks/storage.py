"""The S3 store against plain boto3 and plain pyarrow, on the same S3 server with the same bytes.

The server (moto) is a process of its own on loopback, so what is measured is what a client costs beside it. Ours is
``Store.upload``, ``Store.download``, and a Parquet table written and read through ``Store.arrow``, each as stages use
them: with marks, retries and checksums, and a file system made for each file. The peers are ``upload_file`` and
``download_file`` of a boto3 client and one pyarrow ``S3FileSystem``, all with their defaults. The sides take turns, and
what comes down is compared.

    python benchmarks/storage.py [--megabytes N] [--rounds N] [--only upload download parquet] [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.9
RESULTS = ("upload", "download", "parquet")
BUCKET = "benchmark"
REGION = "us-east-1"
SERVER = (
    "import sys\n"
    "from moto.server import ThreadedMotoServer\n"
    "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)\n"
    "server.start()\n"
    "print(server.get_host_and_port()[1], flush=True)\n"
    "sys.stdin.read()\n"
)


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server in a process of its own; the environment has credentials for it."""
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL  # it writes a line for each request
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, stderr=nowhere) as process:
        assert process.stdin and process.stdout
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
            os.environ |= {"AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": url}
            yield url
        finally:
            process.stdin.close()  # which ends it
            process.wait(20)


@dataclass(frozen=True)
class Sides:
    """One piece of work, by ours and by the peer.

    Attributes:
        size_bytes: what each side moves.
        check: raises where the sides' results differ.
    """

    name: str
    peer: str
    size_bytes: int
    ours: Callable[[], None]
    theirs: Callable[[], None]
    check: Callable[[], None]


def prepare(folder: Path, url: str, size_bytes: int, names: tuple[str, ...] = RESULTS) -> list[Sides]:
    """The work, with everything there that it needs."""
    import boto3

    from cluster.store import open_store

    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    store = open_store(f"s3://{BUCKET}/ours")
    makers = {"upload": _upload, "download": _download, "parquet": _parquet}
    return [makers[name](folder, store, client, size_bytes) for name in names]


def _source(folder: Path, size_bytes: int) -> Path:
    path = folder / "source"
    if not path.exists():
        path.write_bytes(random.Random(0).randbytes(size_bytes))
    return path


def _upload(folder: Path, store: Any, client: Any, size_bytes: int) -> Sides:
    source = _source(folder, size_bytes)

    def check() -> None:
        found = [hashlib.sha256(_object(client, key)).hexdigest() for key in ("ours/up", "up")]
        assert found == [hashlib.sha256(source.read_bytes()).hexdigest()] * 2

    def ours() -> None:
        store.upload(source, "up")

    def theirs() -> None:
        client.upload_file(str(source), BUCKET, "up")

    return Sides("upload", f"boto3 {version('boto3')} upload_file", size_bytes, ours, theirs, check)


def _download(folder: Path, store: Any, client: Any, size_bytes: int) -> Sides:
    source = _source(folder, size_bytes)
    client.upload_file(str(source), BUCKET, "ours/down")

    def check() -> None:
        assert (folder / "a").read_bytes() == (folder / "b").read_bytes() == source.read_bytes()

    def ours() -> None:
        store.download("down", folder / "a")

    def theirs() -> None:
        client.download_file(BUCKET, "ours/down", str(folder / "b"))

    return Sides("download", f"boto3 {version('boto3')} download_file", size_bytes, ours, theirs, check)


def _parquet(folder: Path, store: Any, client: Any, size_bytes: int) -> Sides:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.fs import S3FileSystem

    chance = random.Random(1)
    text = [chance.randbytes(500).hex() for _ in range(max(size_bytes // 1000, 1))]
    table = pa.table({"id": [f"{number:08d}" for number in range(len(text))], "text": text})
    place = client.meta.endpoint_url.partition("://")[2]
    plain = S3FileSystem(endpoint_override=place, scheme="http", region=REGION)
    read: dict[str, Any] = {}

    def check() -> None:
        assert read["ours"].equals(table) and read["theirs"].equals(table)

    def ours() -> None:
        filesystem, path = store.arrow("table.parquet")
        pq.write_table(table, path, filesystem=filesystem)
        filesystem, path = store.arrow("table.parquet")
        read["ours"] = pq.read_table(path, filesystem=filesystem)

    def theirs() -> None:
        pq.write_table(table, f"{BUCKET}/table.parquet", filesystem=plain)
        read["theirs"] = pq.read_table(f"{BUCKET}/table.parquet", filesystem=plain)

    return Sides("parquet", f"pyarrow {version('pyarrow')} S3FileSystem", 2 * table.nbytes, ours, theirs, check)


def _object(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def measure(sides: Sides, rounds: int) -> dict[str, Any]:
    """A result: medians of both sides' rates, and the median and the middle half of the rounds' ratios."""
    for side in (sides.ours, sides.theirs):  # connections, imports and the server's first request are behind both
        side()
    sides.check()
    seconds: list[tuple[float, float]] = []
    for number in range(rounds):
        order = (sides.ours, sides.theirs) if number % 2 == 0 else (sides.theirs, sides.ours)
        taken = {side: _timed(side) for side in order}
        seconds.append((taken[sides.ours], taken[sides.theirs]))
    sides.check()
    megabytes = sides.size_bytes / 1e6
    ratios = sorted(theirs / ours for ours, theirs in seconds)
    return {
        "name": sides.name,
        "ours": megabytes / statistics.median(ours for ours, _ in seconds),
        "peer": sides.peer,
        "peer_value": megabytes / statistics.median(theirs for _, theirs in seconds),
        "unit": "MB/s",
        "ratio": statistics.median(ratios),
        "middle_half": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
        "bar": BAR,
    }


def _timed(side: Callable[[], None]) -> float:
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=64.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=RESULTS, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="12 megabytes, three rounds")
    options = parser.parse_args()
    rounds, megabytes = (3, 12.0) if options.quick else (options.rounds, options.megabytes)
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder, s3_server() as url:
        work = prepare(Path(folder), url, int(megabytes * 1e6), tuple(options.only))
        results = [measure(sides, rounds) for sides in work]
    print(f"{'':<10}{'MB/s':>8}{'peer':>8}{'ratio':>8}   middle half")
    for result in results:
        low, high = result["middle_half"]
        print(
            f"{result['name']:<10}{result['ours']:>8.1f}{result['peer_value']:>8.1f}{result['ratio']:>8.3f}"
            f"   {low:.3f} … {high:.3f}"
        )
    versions = {name: version(name) for name in ("boto3", "pyarrow", "moto")} | {"python": platform.python_version()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "storage", "results": results, "machine": machine, "versions": versions}))
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main())
