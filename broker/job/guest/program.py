"""Start one of the programs of this folder inside a session, under the name by which it was called.

The session's script carries the folder, and the Python of the session's image runs it: the programs import nothing but
each other and the standard library, and have to run with Python 3.8.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(name: str, words: list[str], base: Path) -> None:
    """Be the program `name`; `base` is the folder of the session's files."""
    # ruff: noqa: PLC0415 - each program imports what it needs
    if name == "show":
        from broker.job.guest.show import run_show

        run_show(words, base)
    elif name == "as-owner":
        from broker.job.guest.use import run_use

        run_use(words[0], base)
    else:
        from broker.job.guest.watch import run_watch

        run_watch(name, words[0], base)


if __name__ == "__main__":
    _here = Path(sys.argv[0]).resolve()
    sys.path.insert(0, str(_here.parent / "programs"))
    main(_here.name, sys.argv[1:], _here.parent.parent)
