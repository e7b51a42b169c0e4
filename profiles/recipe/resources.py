"""Values of sbatch options in forms that Slurm reads, for options whose values users also write with other units."""

from __future__ import annotations

from profiles.recipe import duration, size

DURATIONS = frozenset({"time", "time-min"})
SIZES = frozenset({"mem", "mem-per-cpu", "mem-per-gpu", "tmp"})
_NO_LIMIT = frozenset({"unlimited", "infinite", "-1"})


def to_slurm_value(name: str, value: str) -> str:
    """Return the value of the option `--name` for Slurm, such as `1:30:00` for `1h30m` and `1536M` for `1.5G`.

    A value that Slurm reads itself is not changed. ValueError, with the accepted forms, for a wrong time or size.
    """
    if name in DURATIONS:
        if duration.is_slurm_time(value) or value.lower() in _NO_LIMIT:
            return value
        return duration.slurm_time(duration.parse_duration(value))
    if name in SIZES and not size.is_slurm_size(value):
        return size.slurm_size(size.parse_size(value))
    return value
