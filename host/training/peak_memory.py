"""The most memory that this process ever held."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # no Linux: the figure of getrusage, which is the same there without `reset_peak`
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> bool:
    """Has the kernel count the largest memory anew; whether it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
