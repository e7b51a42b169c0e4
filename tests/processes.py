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
