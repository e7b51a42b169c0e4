"""The program that a session's job runs to copy its volumes (docs/reference/session-job.md).

Usage:

    python3 -I copying.pyz [--drain] [--squash] [--progress=FILE] SOURCE TARGET PREVIOUS [SOURCE TARGET PREVIOUS]

With --progress it reports in FILE how much it has copied. With --drain it writes `ready`, waits until the caller has
frozen the writers and has written a line, and writes `drained`: the writers may continue. It writes `copied` when the
first pass is over, waits for a line, copies what has changed since, writes `still` when the source may change again,
and `done` when the copy is on disk. If it fails it writes `failed`, a space and the reason, on the standard output as
all its words: the file that takes the caller's errors may be on the full disk. The caller's lines are `all`, or `some`
if a writer could not be frozen.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys

from broker.volumes.live_copy import TreeCopy
from broker.volumes.progress import report_progress

USAGE = "usage: copying.pyz [--drain] [--squash] [--progress=FILE] SOURCE TARGET PREVIOUS …"
PROGRESS = "--progress="
FAILED, MISUSED, NOT_WANTED = 1, 2, 3


def main() -> int:
    """Run the copy of the command line and return the exit code."""
    arguments = sys.argv[1:]
    options = list(itertools.takewhile(lambda word: word.startswith("--"), arguments))
    words = arguments[len(options) :]
    paths = [option.removeprefix(PROGRESS) for option in options if option.startswith(PROGRESS)]
    options = [option for option in options if not option.startswith(PROGRESS)]
    if not words or len(words) % 3 or {*options} - {"--drain", "--squash"}:
        print(USAGE, file=sys.stderr)
        return MISUSED
    os.umask(0o077)
    gc.disable()  # of millions of numbers and names, none becomes garbage before the end
    try:
        triples = [words[index : index + 3] for index in range(0, len(words), 3)]
        copies = [TreeCopy(*triple, squash="--squash" in options) for triple in triples]
        with report_progress("".join(paths[-1:])):
            return _copy(copies, drains="--drain" in options)
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        print("failed", " ".join(f"{error.strerror}{where}".splitlines()), flush=True)
        return FAILED


def _copy(copies: list[TreeCopy], *, drains: bool) -> int:
    for copy in copies:
        copy.survey()
    if drains and not _drain(copies):
        return NOT_WANTED
    for copy in copies:
        copy.first_pass()
    if not _wait_for_freeze("copied", copies):
        return NOT_WANTED
    for copy in copies:
        copy.second_pass()
    print("still", flush=True)
    for copy in copies:
        copy.complete()
        copy.flush()
    print("done", flush=True)
    return 0


def _drain(copies: list[TreeCopy]) -> bool:
    for copy in copies:
        copy.prepare()
    if not _wait_for_freeze("ready", copies):
        return False
    for copy in copies:
        copy.mark_drained()
    print("drained", flush=True)
    return True


def _wait_for_freeze(word: str, copies: list[TreeCopy]) -> bool:
    """Ask the caller to freeze the writers and wait until it has. False if the caller has cancelled the copy."""
    print(word, flush=True)
    line = sys.stdin.readline()
    if line.strip() == "some":
        for copy in copies:
            copy.mark_untrusted()
    return bool(line)
