"""What this machine gives this process, which in a container is less than what the host has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Cores this process may use: the least of the machine's, its affinity and its container's quota (cgroup v2)."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, min(cores, _quota_cores()))


def _quota_cores() -> int:
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no cgroup v2 here, so no quota to respect
        return 1 << 20
    return 1 << 20 if quota == "max" else math.ceil(int(quota) / int(period))
