"""Pack the program that copies a running session into one file.

It runs on a job's node, where nothing of Berth is installed.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

ARCHIVE = "copying.pyz"
"""Its name in a session's directory `run`."""
MODULES = (
    "broker/failpoints.py",
    "broker/names.py",
    "broker/volumes/content.py",
    "broker/volumes/copied_folders.py",
    "broker/volumes/copy_index.py",
    "broker/volumes/copy_program.py",
    "broker/volumes/copy_survey.py",
    "broker/volumes/copy_threads.py",
    "broker/volumes/entry_copy.py",
    "broker/volumes/errors.py",
    "broker/volumes/files.py",
    "broker/volumes/layers.py",
    "broker/volumes/live_copy.py",
    "broker/volumes/program.py",
    "broker/volumes/progress.py",
    "broker/volumes/record.py",
    "broker/volumes/saves.py",
    "broker/volumes/squashfs.py",
    "broker/volumes/trials.py",
    "broker/volumes/unreadable.py",
    "profiles/local_folder.py",
    "profiles/removal.py",
    "profiles/userfile.py",
    "profiles/walk.py",
)
"""All modules that the program imports beside the standard library."""
PACKAGES = ("broker", "broker/volumes", "profiles")
MAIN = """import sys

if sys.argv[1:] and not sys.argv[1].startswith(("-", "/")):
    from broker.volumes.saves import main as save

    raise SystemExit(save(sys.argv[1:]))
from broker.volumes.copy_program import main

raise SystemExit(main())
"""
"""Commands of broker.volumes.saves are plain words, unlike the options and paths of a copy. A copy does not import the
modules of the saves, so that an older Python can run it."""
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip archive can have: the same modules make the same archive, byte by byte."""


@functools.cache
def copy_archive() -> bytes:
    """Return the archive, which `python3 -I` runs."""
    root = Path(__file__).parents[2]
    files = {"__main__.py": MAIN, **{f"{package}/__init__.py": "" for package in PACKAGES}}
    files |= {module: (root / module).read_text() for module in MODULES}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _OLDEST), text)
    return written.getvalue()
