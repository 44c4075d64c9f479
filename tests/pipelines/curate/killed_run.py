"""Curates a corpus on a Ray of its own, whose workers or driver are killed on the way; run by test_resume_on_ray.py.

python killed_run.py STORE CORPUS_ID SETTINGS_JSON LOG [worker|driver:STEP]…
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.artifact import load_artifact
from cluster.progress import Progress
from cluster.session import ClusterConfig, connect
from cluster.stage import execute, identify
from cluster.store_local import LocalStore
from pipelines.corpus.parts import map_parts
from pipelines.curate import stage
from pipelines.curate.config import STAGE, CurateConfig


def name_of(function: Any) -> str:
    while hasattr(function, "func"):
        function = function.keywords.get("function", function.func)
    return str(function.__name__)


def logged(part: Any, *, function: Any, name: str, log: str, victims: dict[str, int], number: int) -> Any:
    """Run a part and note that it is done; at one part of a step somebody dies, once."""
    for victim, pid in victims.items():
        mark = Path(f"{log}.{victim}.{name}")
        if part.number == number and not mark.exists():
            mark.touch()
            os.kill(pid or os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the driver is gone, and this worker goes with it
    result = function(part)
    with open(log, "a") as file:
        file.write(f"{name} {function.keywords.get('folder', '').partition('/results/')[2]} {part.number}\n")
    return result


def main() -> None:
    root, corpus_id, settings, log, *deaths = sys.argv[1:]
    store, config = LocalStore(Path(root)), CurateConfig.model_validate(json.loads(settings))
    corpus = load_artifact(store, corpus_id)
    assert corpus is not None

    def deadly(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        name = name_of(function)
        if name == "explain_part" or not parts:
            return map_parts(function, parts, workers)
        chosen = [each.partition(":")[0] for each in deaths if each.partition(":")[2] == name]
        victims = {victim: os.getpid() if victim == "driver" else 0 for victim in chosen}
        number = parts[len(parts) // 2].number
        work = functools.partial(logged, function=function, name=name, log=log, victims=victims, number=number)
        return map_parts(work, parts, workers)

    stage.map_parts = deadly
    identity = identify(STAGE, config, {"corpus": corpus.fingerprint})
    with (
        connect(ClusterConfig(object_store_bytes=100 << 20)),
        Progress(io.StringIO(), live=False).track("c") as tracker,
    ):
        made = execute(STAGE, identity, config, {"corpus": corpus}, store, tracker).artifact.id
        print(f"made {made}", flush=True)


if __name__ == "__main__":
    main()
