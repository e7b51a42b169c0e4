"""What a script of `berth sbatch --env` finds in its environment as it would find it on the node itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import Progress
from tests.lab.batch_work import Work
from tests.site import deploy

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site


@pytest.fixture
def variables(site: Site, image: str) -> str:
    """A profile that sets variables, built."""
    assert image
    deploy.build_profile(site, "variables", Progress(quiet=True))
    return "variables"


@pytest.fixture
def work(alice: User, image: str) -> Work:
    assert image
    return Work(alice)


def test_the_umask_is_the_submissions(work: Work) -> None:
    """In the script, in its steps on this and another node, and in files."""
    work.write("job.sh", "#!/bin/sh\numask\nsrun -N2 sh -c umask\ntouch ~/file\nstat -c %a ~/file\n")
    submit = "berth sbatch --env base --wait -N2 -t 5 --mem=200M"
    masks = ("0077", "0000", "0137")
    said = work.at_once({mask: f"umask {mask}; {submit} -o {mask}.out job.sh" for mask in masks})
    for mask in masks:
        assert said[mask].split() == [mask, mask, mask, f"{0o666 & ~int(mask, 8):o}"]


def test_variables_that_export_names_count_most(work: Work, variables: str) -> None:
    """They before the profile's, and those before inherited ones; in the script and in steps."""
    show = 'for name in RATE PYTHONPATH LD_LIBRARY_PATH OTHER; do echo "$name=${!name-none}"; done'
    for name, head in {"job.sh": "", "named.sh": "#SBATCH --export=ALL,RATE=script,TMPDIR\n"}.items():
        work.write(name, f"#!/bin/bash\n{head}echo ${{TMPDIR-none}}\n{show}\nsrun --export=ALL bash -c '{show}'\n")
    theirs = (
        "export RATE=inherited PYTHONPATH=/inherited LD_LIBRARY_PATH=/libraries TMPDIR=/shared/home/alice OTHER='o  o'"
    )
    submit = f"berth sbatch --env {variables} --wait -t 5 --mem=200M"
    said = work.at_once(
        {
            "inherited": f"{theirs}; {submit} -o inherited.out job.sh",
            "named": f"{theirs}; {submit} -o named.out --export=ALL,RATE=1,PYTHONPATH,LD_LIBRARY_PATH job.sh",
            "only": f"{theirs}; {submit} -o only.out --export=PYTHONPATH,OTHER=\"'a,b'\" job.sh",
            "variable": f"{theirs}; SBATCH_EXPORT=ALL,RATE=2 {submit} -o variable.out named.sh",
            "script": f"{theirs}; {submit} -o script.out named.sh",
            "none": f"{theirs}; {submit} -o none.out --export=NONE job.sh",
        }
    )
    profile = {"RATE": "profile", "PYTHONPATH": "/opt/of-the-profile", "LD_LIBRARY_PATH": "none"}
    expected = {
        "inherited": {"OTHER": "o  o"},
        "named": {"RATE": "1", "PYTHONPATH": "/inherited", "LD_LIBRARY_PATH": "/libraries", "OTHER": "o  o"},
        "only": {"PYTHONPATH": "/inherited", "OTHER": "'a,b'"},
        "variable": {"RATE": "2", "OTHER": "o  o"},
        "script": {"RATE": "script", "OTHER": "o  o"},
        "none": {"OTHER": "none"},
    }
    for name, given in expected.items():
        once = [f"{variable}={value}" for variable, value in (profile | given).items()]
        assert said[name].splitlines() == ["/shared/home/alice" if name == "script" else "none", *once, *once], name
    dropped = work.sh("cat inherited.said")
    assert "the job does not get LD_LIBRARY_PATH, TMPDIR, of the login node" in dropped
    assert "the profile's value counts for PYTHONPATH, RATE; to pass it on, name it: --export=ALL,PYTHONPATH" in dropped
    assert "berth:" not in work.sh("cat none.said")
