"""Where tests can keep a model in 4 bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None

installed = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed (raymill[qlora])")


def computes_in_bf16() -> bool:
    """Whether bitsandbytes repacks weights on this CPU for products in bf16, which no fp32 result is equal to."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "avx512_bf16" in facts.read_text()


on_this_cpu = pytest.mark.skipif(
    not INSTALLED or computes_in_bf16(), reason="needs bitsandbytes on a CPU where it computes in fp32"
)
