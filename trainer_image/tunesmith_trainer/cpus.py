"""How many CPUs this container may use: fewer than the machine has, where it has a quota.

Called by whoever chooses a number of threads or processes. Linux knows the answer; elsewhere there
is no container, and all CPUs count.
"""

import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def available_cpus() -> float:
    """Give the CPUs of this process: those it may run on, at most its container's quota."""
    # macOS has no such sets.
    is_told = hasattr(os, "sched_getaffinity")
    most = float(len(os.sched_getaffinity(0)) if is_told else os.cpu_count() or 1)
    try:
        quota, period = (
            _CGROUP_V2.read_text().split()
            if _CGROUP_V2.exists()
            else [path.read_text() for path in _CGROUP_V1]
        )
        limit = int(quota) / int(period)
    except (OSError, ValueError):
        return most  # no quota: v2 says "max", and outside a container there is no file
    return min(most, limit) if limit > 0 else most
