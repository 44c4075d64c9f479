"""Where an engine's processes meet: on loopback; loaded by vLLM's workers themselves (``--worker-extension-cls``)."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_PLACE = Path(__file__).resolve().parents[3] / "cluster" / "torch_store.py"
"""By its path: another interpreter has no package of ours."""


class Loopback:
    """What vLLM's worker inherits from; it adds nothing to it, as importing this module has done the work."""


def _listen_where_told() -> None:
    spec = spec_from_file_location("raymill_torch_store", _PLACE)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.listen_where_told()


_listen_where_told()
