"""A script of `berth sbatch --env` finds the same in its environment as on the node itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from tests.lab.batch_work import Work
from tests.site import deploy

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site


@pytest.fixture
def variables(site: Site, image: str) -> str:
    """A profile that sets variables, built."""
    assert image
    deploy.build_profile(site, "variables", ProgressLog(quiet=True))
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
    assert "the job does not get LD_LIBRARY_PATH, TMPDIR of the login node" in dropped
    assert (
        "the job gets the profile's value of PYTHONPATH, RATE; to pass the present value, use --export=ALL,PYTHONPATH"
        in dropped
    )
    assert "berth:" not in work.sh("cat none.said")


def test_where_the_node_is_not_mounted_the_job_has_its_own_copy(work: Work, apart: str) -> None:
    """The home and what holds it, what is the system's own, or all if the profile says so; submission says it."""
    names = ("home", "above", "top", "root", "usr", "etc", "var", "run", "tmp", "vartmp")
    paths = "/shared/home/alice /shared/home /shared / /usr/share /etc /var/lib /run /tmp /var/tmp"
    never = dict(zip(names, paths.split(), strict=True))
    marker = f"marker-{work.user.name}"
    places = " ".join(f"{place}/{marker}" for place in never.values())
    work.lab.sh(f"touch {places}", node="c1")
    work.write(
        "job.sh", f'#!/bin/sh\npwd\ncd "$SLURM_SUBMIT_DIR" && pwd\nls "$1/{marker}"\n[ ! -w . ] || echo mine >mine\n'
    )
    submit = "berth sbatch --wait -w c1 -t 5 --mem=200M"
    commands = {
        name: f"at=$PWD; cd {place} && {submit} --env base -o $at/{name}.out $at/job.sh {place}"
        for name, place in never.items()
    }
    commands["apart"] = f"touch {marker}; {submit} --env {apart} -o apart.out job.sh $PWD"
    commands["asked"] = f"{submit} --env base -D /shared/home -o $PWD/asked.out job.sh /shared/home"
    said = work.at_once(commands, seconds=180)
    work.lab.sh(f"rm {places}", node="c1")
    lines = {name: text.splitlines() for name, text in said.items()}
    told = {name: work.sh(f"grep ^berth: {name}.said") for name in commands}
    for name, place in never.items():
        assert f"cannot access '{place}/{marker}'" in said[name], said[name]
    for name in ("root", "usr", "etc", "tmp", "vartmp"):
        assert lines[name][:2] == [never[name], never[name]]
        assert (
            told[name]
            == f"berth: the job works in the environment's own {never[name]}, which is deleted at the job's end\n"
        )
    assert lines["home"][:2] == ["/home/alice", "/shared/home/alice"]
    assert lines["apart"][:2] == ["/home/alice/batch", work.path]
    assert lines["asked"][:2] == ["/home/alice", work.path]
    assert f"cannot access '/shared/home/alice/batch/{marker}'" in said["apart"]
    for name in ("home", "above", "top", "asked"):
        assert "jobs in an environment do not see the home of the login node, which is in" in told[name]
        assert "the job works in its own copy of the home" in told[name]
    assert (
        "the profile or the site does not allow jobs in an environment to see /shared/home/alice/batch" in told["apart"]
    )
    job = work.sh("sed -n 's/^Submitted batch job //p' apart.said").strip()
    assert work.sh("ls mine || echo not here").strip() == "mine"  # of the job that was asked to work elsewhere
    work.sh("rm mine")
    work.user.ok("fetch", job)
    assert work.sh("cat mine") == "mine\n"


def test_of_the_home_only_the_submission_directory_is_the_nodes(work: Work) -> None:
    """The node has the home at the same path as the environment; also with odd names, and on other nodes."""
    at = f"/home/{work.user.name}"
    odd = f'{at}/a b,c:d"e'
    everywhere = ("login", "c1", "c2", "c3")
    try:
        for node in everywhere:
            work.lab.sh(f"install -d -o alice {at} {at}/other '{odd}' && echo $0 >{at}/marker", node=node)
        work.write(
            "job.sh",
            "#!/bin/sh\npwd; ls ~; cat here; echo mine >>here; srun -N2 sh -c 'pwd; cat here' | sort\n"
            "df -P . | tail -n 1 | grep -c berth\n",
        )
        submit = "berth sbatch --env base --wait -w c1,c2 -t 5 --mem=200M"
        work.lab.sh(f"cd '{odd}' && echo of c1 >here && chown alice here", node="c1")
        work.lab.sh(f"cd '{odd}' && echo of c2 >here", node="c2")
        command = f"at=$PWD; cd '{odd}' && {submit} -N2 -o $at/home.out $at/job.sh"
        said = work.at_once({"home": command})["home"].splitlines()
        assert said == [odd, odd.rpartition("/")[2], "of c1", odd, odd, "mine", "of c1", "of c2", "0"]
        assert work.lab.sh(f"cat '{odd}/here'", node="c1") == "of c1\nmine"
    finally:
        for node in everywhere:
            work.lab.sh(f"rm -rf {at}", node=node)


def test_paths_of_the_logins_home_are_the_environments(work: Work) -> None:
    """Programs hand them to their jobs, as Snakemake does with its cache; also on other nodes."""
    home = "/shared/home/alice"
    body = (
        f"mkdir -p {home}/.cache/of-a-job && echo ours >{home}/.cache/of-a-job/file; cat ~/.cache/of-a-job/file\n"
        f"srun -N2 sh -c 'mkdir {home}/x-$SLURM_NODEID && ls -d ~/x-* && pwd' | sort\n"
    )
    said = work.run("--env base -N2", body).splitlines()
    assert said == ["ours", "/home/alice/x-0", "/home/alice/x-1", work.path, work.path]
    assert work.sh(f"ls -d {home}/.cache/of-a-job {home}/x-* || :") == ""
