"""How many cores this process may use: its affinity and its control group's quota, not what the machine has."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Return the number of threads that can really run at once; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        cores = os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def _quota(cgroups: Path) -> float | None:
    """Return the quota in cores, from cgroup v2 or v1 as a container sees them; None without a limit."""
    try:
        limit, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return quota if quota > 0 else None
