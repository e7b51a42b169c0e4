"""Build packages of this checkout: `python3 -m tests.release.packages deb|rpm… [--python PATH] [--out DIR]`.

Each is for the release of the distribution on which it is built: it uses that release's Python.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.release.packages.debian import build_deb
from tests.release.packages.rpm import build_rpm
from tests.release.packages.tree import CHECKOUT, Release, make_tree

BUILDERS = {"deb": build_deb, "rpm": build_rpm}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.release.packages", description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=BUILDERS, help="the kinds of packages")
    parser.add_argument("--python", default="/usr/bin/python3", help="the distribution's Python (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "build/packages", help="default: build/packages")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    release = Release.of_checkout(options.python)
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        tree.mkdir(0o755)
        make_tree(release, tree)
        for kind in options.kinds:
            print(BUILDERS[kind](release, tree, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
