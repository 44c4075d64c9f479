"""What is left out of Ray Train is there to be left out, and nothing else is."""

from __future__ import annotations

import inspect

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines.train.trainer import Trainer


def test_only_what_hands_out_datasets_is_left_out() -> None:
    usual, own = (
        kind(print, scaling_config=ScalingConfig(num_workers=2))._create_default_callbacks()
        for kind in (TorchTrainer, Trainer)
    )
    names = [type(each).__name__ for each in usual]
    assert "DatasetsCallback" in names
    assert [type(each).__name__ for each in own] == [name for name in names if name != "DatasetsCallback"]


def test_ray_train_asks_for_its_callbacks_where_ours_answers() -> None:
    assert "_create_default_callbacks()" in inspect.getsource(TorchTrainer.fit)
