"""Processes in /proc (proc_pid_stat(5), proc_pid_task(5)); one that has ended, even while it is read, has nothing."""

from __future__ import annotations

from pathlib import Path


def process_children(pid: int) -> list[int]:
    """Return the process ids of the children of a process's main thread, zombies included; none if it has ended."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def process_tree(pid: int) -> list[int]:
    """Return the process id and those of all its descendants."""
    found = [pid]
    for each in found:
        found += process_children(each)
    return found


def process_state(pid: int) -> str:
    """Return the state of a process as in proc_pid_stat(5), X if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def forget_peak(pid: int) -> None:
    """Set the recorded peak of a process's memory to its present size: proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kilobytes(pid: int) -> int:
    """Return the largest resident size of a process since its start or the last `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
