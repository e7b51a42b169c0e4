"""The joined scripts of jobs: their parts, the same bytes every time, and what each entry point can call."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.job import bundle
from tests.job_scripts import BATCH, PARTS, SERVICE, SESSION

if TYPE_CHECKING:
    from pathlib import Path

MAX_LINES = 220
"""Of a part."""
ENTRIES = {
    # The script, the last part that bash reads for the entry point, and the function that it runs.
    "container": (bundle.SESSION_SCRIPT, "container/main", "container_main"),
    "namespace": (bundle.SESSION_SCRIPT, "namespace/main", "namespace_main"),
    "node": (bundle.SESSION_SCRIPT, "node/main", "node_main"),
    "batch": (bundle.ENVIRONMENT_SCRIPT, "batch/main", "batch_main"),
    "service": (bundle.SERVICE_SCRIPT, "service/main", "service_main"),
}
SESSION_STATE = re.compile(r'declare -p (.*) "\$\{!BERTH_@\}" >"\$state"')
BATCH_STATE = re.compile(r'declare -p (.*) "\$\{!BERTH_@\}" >"\$NODE_DIR/state"')
GIVEN = re.compile(
    r"(BASH|SLURM|BERTH|APPTAINER|SINGULARITY|XDG|SSH|DBUS|CONDA|LMOD|MODULE|LOADEDMODULES)(_|$).*"
    r"|EPOCHSECONDS|SECONDS|RANDOM|UID|GROUPS|PIPESTATUS|HOME|PATH|LANG|IFS|SLURMD_NODENAME|PWD|LD_LIBRARY_PATH|LD_PRELOAD"
)
"""Variables of bash, of Slurm, of Apptainer and of the job's description."""


def source(script: str) -> str:
    """Return the text of a script, without here-documents that are files of their own."""
    text = bundle.join_parts(script).decode()
    return re.sub(r"<<'([A-Z]+)'\n.*?\n\1\n", "<<embedded\n", text, flags=re.DOTALL)


def functions(text: str) -> dict[str, str]:
    """Return each function's body, without its comments."""
    found = re.findall(r"^([a-z_]+)\(\) \{(.*?)(?:^\}| \})$", text, re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"(?m)(^| )#.*$", "", body) for name, body in found}


def reachable(bodies: dict[str, str], start: str) -> set[str]:
    """Return the functions whose names appear in the function, in those that it names, and so on."""
    found, queue = {start}, [start]
    while queue:
        words = set(re.findall(r"[a-z_]+", bodies.get(queue.pop(), "")))
        queue += sorted(words & bodies.keys() - found)
        found |= words & bodies.keys()
    return found


def up_to(script: str, part: str) -> str:
    """Return what bash has read of a script at the end of a part."""
    text = source(script)
    following = bundle.PARTS[script][bundle.PARTS[script].index(part) + 1 :]
    return text.partition(f"# ---- {following[0]}.sh\n")[0] if following else text


def test_the_same_parts_make_the_same_bytes_in_another_process() -> None:
    code = "import sys; from broker.job import bundle; sys.stdout.buffer.write(bundle.join_parts(sys.argv[1]))"
    for script in bundle.PARTS:
        command = [sys.executable, "-c", code, script]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True, cwd=PARTS.parents[1])
        assert done.stdout == bundle.join_parts(script)


def test_digest_names_the_version_of_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    before = bundle.digest(bundle.SESSION_SCRIPT)
    assert re.fullmatch("[0-9a-f]{12}", before)
    monkeypatch.setattr(bundle, "join_parts", lambda name: f"another {name}".encode())
    assert bundle.digest(bundle.SESSION_SCRIPT) != before


@pytest.mark.parametrize("script", bundle.PARTS)
def test_parts_are_joined_whole_and_in_their_order(script: str) -> None:
    text = bundle.join_parts(script).decode()
    assert text.startswith("#!/bin/bash\n")
    ends = [text.index(f"# ---- {part}.sh\n") for part in bundle.PARTS[script]]
    assert ends == sorted(ends)
    for part in bundle.PARTS[script]:
        for piece in re.split(r"^#embed .*\n", (PARTS / f"{part}.sh").read_text(), flags=re.MULTILINE):
            assert piece in text


def test_every_part_is_in_a_script() -> None:
    names = {
        str(path.relative_to(PARTS).with_suffix("")) for path in PARTS.rglob("*.sh") if path.parent.name != "inside"
    }
    assert names == {part for parts in bundle.PARTS.values() for part in parts}


def test_no_part_is_long_and_each_says_what_it_is_for() -> None:
    for path in [*PARTS.rglob("*.sh"), PARTS / "inside/sudo"]:
        lines = path.read_text().splitlines()
        assert len(lines) <= MAX_LINES, path
        assert re.match(r"# [A-Za-z]", lines[1 if lines[0].startswith("#!") else 0]), path


@pytest.mark.parametrize(("function", "file"), [("write_sudo", "sudo"), ("write_greeting", "greeting.sh")])
@pytest.mark.parametrize("script", [SESSION, BATCH], ids=["session", "batch"])
def test_embedded_files_are_written_as_they_are(tmp_path: Path, script: Path, function: str, file: str) -> None:
    command = ["bash", "-c", f'source {script}; {function} "$1"', "bash", str(tmp_path / "made")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (tmp_path / "made").read_bytes() == (PARTS / "inside" / file).read_bytes()


def test_program_for_services_is_written_as_it_is(tmp_path: Path) -> None:
    command = ["bash", "-c", f'source {SESSION}; write_service_program "$1"', "bash", str(tmp_path / "made")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (tmp_path / "made").read_bytes() == bundle.join_parts(bundle.SERVICE_SCRIPT)


@pytest.mark.parametrize("script", bundle.PARTS)
def test_nothing_is_defined_twice(script: str) -> None:
    text = source(script)
    names = re.findall(r"^([a-z_]+)\(\) \{", text, re.MULTILINE)
    names += re.findall(r"^readonly ([A-Z_]+)=", text, re.MULTILINE)
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_function_that_an_entry_point_calls_is_defined_there(entry: str) -> None:
    script, part, start = ENTRIES[entry]
    everything, there = functions(source(script)), functions(up_to(script, part))
    assert start in there
    assert reachable(everything, start) <= there.keys()


def test_a_function_of_a_later_part_is_found_missing() -> None:
    """The test above can fail."""
    script, part, start = ENTRIES["container"]
    text = source(script).replace("  adapt_accounts\n", "  mount_overlay\n")
    assert "mount_overlay" in reachable(functions(text), start) - functions(up_to(script, part)).keys()


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_constant_that_an_entry_point_uses_is_set_there(entry: str) -> None:
    script, part, start = ENTRIES[entry]
    bodies, there = functions(source(script)), up_to(script, part)
    constants = set(re.findall(r"^readonly ([A-Z_]+)=", source(script), re.MULTILINE))
    used = {word for name in reachable(bodies, start) for word in re.findall(r"\b[A-Z][A-Z_]+\b", bodies[name])}
    assert constants & used <= set(re.findall(r"^readonly ([A-Z_]+)=", there, re.MULTILINE))


@pytest.mark.parametrize(
    ("script", "part", "start", "state"),
    [
        (bundle.SESSION_SCRIPT, "container/main", "container_main", SESSION_STATE),
        (bundle.SESSION_SCRIPT, "namespace/main", "namespace_main", SESSION_STATE),
        (bundle.ENVIRONMENT_SCRIPT, "batch/main", "environment_main", BATCH_STATE),
    ],
)
def test_state_has_every_variable_that_an_inner_run_needs(
    script: str, part: str, start: str, state: re.Pattern[str]
) -> None:
    found = state.search(source(script).replace("\\\n    ", ""))
    assert found is not None
    bodies = functions(up_to(script, part))
    code = "\n".join(bodies[name] for name in sorted(reachable(bodies, start)))
    used = set(re.findall(r"\$\{?[#!]?([A-Z][A-Z_]*)\b", code))
    # An assignment, a redirection to a new descriptor, an array, `for`, and then `local`.
    made = re.findall(r"\b([A-Z][A-Z_]*)(?:\[[^]]*\])?\+?=|\{([A-Z_]+)\}[<>]|(?:-A|for) ([A-Z]+)\b", code)
    names = {name for each in made for name in each}
    names |= {name for line in re.findall(r"local (.*)", code) for name in line.split()}
    names |= set(re.findall(r"^(?:readonly )?([A-Z_]+)=", up_to(script, part), re.MULTILINE))
    missing = {name for name in used - names - set(found[1].split()) if not GIVEN.fullmatch(name)}
    assert missing == set()


def test_the_container_of_a_batch_job_gets_a_function_that_calls_no_other() -> None:
    bodies = functions(source(bundle.ENVIRONMENT_SCRIPT))
    assert re.findall(r"declare -f (.*)", bodies["environment_main"]) == ["clean_environment"]
    assert reachable(bodies, "clean_environment") == {"clean_environment"}


def test_no_constant_is_among_the_variables_that_a_job_unsets() -> None:
    script = source(bundle.SESSION_SCRIPT)
    prefixes = re.findall(r"\$\{!(\w+)@\}", script)
    assert "SQUEUE_" in prefixes
    constants = re.findall(r"^readonly (\w+)=", script, re.MULTILINE)
    assert not [name for name in constants if name.startswith(tuple(prefixes))]


@pytest.mark.parametrize("script", [SESSION, BATCH, SERVICE], ids=["session", "batch", "service"])
def test_shellcheck_and_bash_accept_the_joined_script(script: Path) -> None:
    assert shutil.which("shellcheck") is not None, "shellcheck is not installed"
    for command in (["bash", "-n", str(script)], ["shellcheck", str(script)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_scripts_are_written_once_for_shellcheck(tmp_path: Path) -> None:
    bundle.write_scripts(tmp_path / "new")
    first = {path.name: path.stat().st_ino for path in (tmp_path / "new").iterdir()}
    bundle.write_scripts(tmp_path / "new")
    assert {path.name: path.stat().st_ino for path in (tmp_path / "new").iterdir()} == first
    assert first.keys() == bundle.PARTS.keys()
