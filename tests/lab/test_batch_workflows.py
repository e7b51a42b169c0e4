"""Programs that submit batch jobs by themselves, started on the login node from an ordinary directory of the home.

They find an `sbatch` on PATH that is `berth sbatch`, and BERTH_ENV names the environment. Their packages lie in a
virtual environment of that directory, which jobs see by the same path.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from slurm.lab.layers import build_layer
from slurm.lab.paths import cache_root
from slurm.lab.progress import ProgressLog
from tests.lab.batch_work import WORK, Work
from tests.site import deploy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import User

WRAPPER = '#!/bin/sh\nexec berth sbatch "$@"\n'
SUBMITIT = """
import pathlib, submitit
def work(number):
    return number * 2, pathlib.Path("/run/berth/node").exists(), pathlib.Path.cwd()
executor = submitit.AutoExecutor(folder="logs")
executor.update_parameters(timeout_min=5, mem_gb=1, slurm_array_parallelism=2)
jobs = executor.map_array(work, [1, 2])
print(*(job.result() for job in jobs), sep="\\n")
"""
DASK = """
import pathlib
from dask.distributed import Client
from dask_jobqueue import SLURMCluster
def work(number):
    return number * 2, pathlib.Path("/run/berth/node").exists(), pathlib.Path.cwd()
if __name__ == "__main__":
    with SLURMCluster(cores=1, processes=1, memory="1GB", walltime="00:05:00", log_directory="logs") as cluster:
        cluster.scale(1)
        with Client(cluster) as client:
            print(client.submit(work, 4).result(timeout=100))
"""
SNAKEFILE = """
rule second:
    input: "first.txt"
    output: "second.txt"
    shell: "cat {input} /opt/other >{output}; echo $SLURM_JOB_ID $PWD >>{output}"
rule first:
    output: "first.txt"
    shell: "cat /opt/other >{output}; echo $SLURM_JOB_ID $PWD >>{output}"
"""
SNAKEMAKE = """
workflows/bin/python -m snakemake --executor slurm --jobs 2 --latency-wait 10
    --slurm-init-seconds-before-status-checks 1 --seconds-between-status-checks 2
    --default-resources slurm_partition=gpu mem_mb=1000 runtime=5
"""


@pytest.fixture(scope="module")
def work(people: dict[str, User], image: str) -> Work:
    """A directory with an sbatch that is Berth's, and a virtual environment with the programs of the tests' own."""
    assert image
    made = Work(people["alice"])
    made.sh("python3 -m venv --without-pip venv; mkdir bin")
    made.write("bin/sbatch", WRAPPER)
    made.sh("chmod 755 bin/sbatch")
    site = made.lab.shared / WORK.removeprefix("/shared/") / "venv/lib"
    packages = next(site.glob("python3.*/site-packages"))
    for name in _needed("submitit", "dask-jobqueue"):
        _copy(name, packages)
    made.lab.sh(f"chown -R alice {WORK}/venv")
    return made


@pytest.fixture(scope="module")
def snakemake(work: Work) -> Work:
    """The same directory with a virtual environment more, which has Snakemake and its executor for Slurm."""
    lock = deploy.CHECKOUT / "requirements-workflows.lock"
    layer = build_layer(
        cache_root(), "workflows", deploy.HERE / "workflows.sh", [lock], progress=ProgressLog(quiet=True)
    )
    aim = work.lab.shared / WORK.removeprefix("/shared/")
    subprocess.run(["cp", "-a", str(layer / "opt/workflows"), str(aim)], check=True, timeout=120)
    work.lab.sh(f"chown -R alice {WORK}/workflows")
    return work


def _needed(*names: str) -> set[str]:
    """Return these distributions, and those that they need here."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(name)
        left += [need.split(";")[0].strip().rstrip("=<>!~.,0123456789 ") for need in needs if "extra" not in need]
    return found


def _copy(name: str, packages: Path) -> None:
    """A distribution's files. Modules of C that are for another Python have a form in Python beside them."""
    for file in metadata.files(name) or []:
        if ".." not in file.parts and "tests" not in file.parts and file.suffix != ".pyc":
            aim = packages / file
            aim.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), aim)


def run(work: Work, program: str) -> list[str]:
    work.write("program.py", program)
    variables = "export BERTH_ENV=base PATH=$PWD/bin:$PATH"
    return work.sh(
        f"{variables}; timeout 110 venv/bin/python program.py 2>errors || {{ cat errors; exit 1; }}", seconds=120
    ).splitlines()


def test_submitit_runs_functions_in_the_environment(work: Work) -> None:
    said = run(work, SUBMITIT)
    assert said == [f"({number}, True, PosixPath('{WORK}'))" for number in (2, 4)]


def test_dask_jobqueue_has_workers_in_the_environment(work: Work) -> None:
    assert run(work, DASK) == [f"(8, True, PosixPath('{WORK}'))"]


@pytest.mark.soak
def test_snakemake_runs_rules_in_the_environment(snakemake: Work, other: str) -> None:
    snakemake.write("Snakefile", SNAKEFILE)
    said = snakemake.sh(
        f"export BERTH_ENV={other} PATH=$PWD/bin:$PATH; timeout 170 {' '.join(SNAKEMAKE.split())} 2>&1", seconds=180
    )
    assert "2 of 2 steps (100%) done" in said
    lines = snakemake.sh("cat second.txt").splitlines()
    assert lines[::2] == ["only in other"] * 2
    jobs, directories = zip(*(line.split() for line in lines[1::2]), strict=True)
    assert len(set(jobs)) == 2
    assert directories == (WORK, WORK)
