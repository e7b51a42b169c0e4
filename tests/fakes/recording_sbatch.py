"""An sbatch that records what it was given, and `berth sbatch` in a process of its own that runs it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SBATCH = """#!/bin/sh
for word; do printf '[%s]' "$word" >>"$HOME/words"; last=$word; done
if [ -f "$last" ]; then cat "$last" >"$HOME/script"; else cat >"$HOME/script"; fi
echo "sbatch: what it says" >&2
[ -z "$SAYS" ] || echo "$SAYS"
exit "${CODE:-0}"
"""
SCRIPT = "#!/usr/bin/env python3\n#SBATCH -n 2\n\n# more\n#SBATCH --time=5\nprint('x')\n#SBATCH --late\n"


def install_recording_sbatch(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the program on PATH, and a script `job.sh` in `directory`, which becomes the working directory."""
    (directory / "bin").mkdir()
    program = directory / "bin/sbatch"
    program.write_text(SBATCH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SAYS", "Submitted batch job 42")
    monkeypatch.delenv("BERTH_ENV", raising=False)
    monkeypatch.chdir(directory)
    (directory / "job.sh").write_text(SCRIPT)


def sbatch(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own, which may become sbatch."""
    command = [sys.executable, "-m", "broker.cli", "sbatch", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def given(tmp_path: Path) -> tuple[str, str]:
    """The words and the script that sbatch got."""
    return (tmp_path / "words").read_text(), (tmp_path / "script").read_text()
