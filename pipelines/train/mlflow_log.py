"""A finished run's curves in MLflow, where the recipe names a tracking server or folder."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator, Mapping

from cluster.errors import UserError
from pipelines.train.journal import Record
from pipelines.train.tensorboard import curves

EXPERIMENT = "raymill"
BATCH = 1000
"""Metrics that MLflow takes in one call."""


def require_mlflow(where: str) -> None:
    """Refuse where it is not installed.

    Raises:
        UserError: saying what to install.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "mlflow is not installed here",
            where=f"{where}.mlflow",
            next_step="`pip install mlflow-skinny` where the command runs, or leave the key out",
        )


def log_run(records: Iterable[Record], address: str, name: str, parameters: Mapping[str, object]) -> str:
    """Make a run of every curve, with what happened as tags; its id.

    Args:
        address: MLflow's tracking URI.
        name: of the run, in the experiment ``raymill``.

    Raises:
        UserError: MLflow refuses, or does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    moment = int(time.time() * 1000)
    records = list(records)
    try:
        client = MlflowClient(tracking_uri=address)
        found = client.get_experiment_by_name(EXPERIMENT)
        run_id: str = client.create_run(
            found.experiment_id if found else client.create_experiment(EXPERIMENT), run_name=name
        ).info.run_id
        events = [f"step {each['step']:,}: {each['text']}" for each in records if each["kind"] == "event"]
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in parameters.items()],
            tags=[RunTag(f"event.{number}", text) for number, text in enumerate(events, 1)],
        )
        metrics = [Metric(key, value, moment, step) for key, value, step in _points(records)]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        client.set_terminated(run_id)
    except MlflowException as error:
        raise UserError(
            f"the run is finished, but MLflow did not take its curves: {str(error).splitlines()[0]}",
            where=address,
            next_step="the curves are in metrics.jsonl, and nothing has to be repeated",
        ) from error
    return run_id


def _points(records: Iterable[Record]) -> Iterator[tuple[str, float, int]]:
    for record in records:
        for name, value in curves(record):
            yield name, value, int(record["step"])
