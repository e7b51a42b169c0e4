"""`berth sbatch --env` on the lab: what a script sees there, and what comes of what it writes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode
from tests.lab.batch_work import WORK, Work
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User


@pytest.fixture
def work(alice: User) -> Work:
    return Work(alice)


@contextmanager
def started(user: User, profile: str, name: str) -> Iterator[str]:
    user.ok("start", name, "--profile", profile, "--mem=200M", "-t", "30", seconds=120)
    user.laptop.ok(name, "sudo touch /usr/local/package && echo tested >result")
    yield name
    user.berth("stop", name)


@pytest.fixture
def session(alice: User, image: str, name: str) -> Iterator[str]:
    """A session that runs, with a package of its own and a file in its home."""
    with started(alice, image, name) as there:
        yield there


@pytest.fixture
def session_apart(alice: User, apart: str, name: str) -> Iterator[str]:
    """The same of a profile that shows no job where it was submitted from."""
    with started(alice, apart, name) as there:
        yield there


def test_a_script_sees_the_session_as_of_submission(session: str, work: Work) -> None:
    """Also its working directory's place in the home, its GPU, its arguments, its environment and its exit code."""
    work.write(
        "job.sh",
        "#!/bin/bash\n#SBATCH --gres=gpu:intel:1\n"
        'echo "$PWD $HOME $(id -un) $SLURM_JOB_GPUS $1 $LR $(cat ~/result)"; ls /usr/local/package\n'
        'echo "${MODULEPATH-none} ${LD_LIBRARY_PATH-none} ${BERTH_INSIDE_PATH-none}"\nexit 3\n',
    )
    work.user.berth("list")
    submit = "LR=0.1 MODULEPATH=/opt/modules LD_LIBRARY_PATH=/opt/lib berth sbatch --parsable --hold -t 5 --mem=200M"
    job = work.sh(f"{submit} --env {session} job.sh 'two words'").strip()
    assert work.user.laptop.ok(session, "echo changed since >result; cat result").decode() == "changed since\n"
    work.sh(f"scontrol release {job}")
    ended = {"FAILED", "COMPLETED", "CANCELLED", "TIMEOUT"}
    wait_for(lambda: work.sh(f"sacct -X -n -o state%20 -j {job}").strip() in ended, what="the job's end", seconds=60)
    assert work.output(job).splitlines() == [
        f"{WORK} /home/alice alice 0 two words 0.1 tested",
        "/usr/local/package",
        "none none none",
    ]
    assert work.sh(f"sacct -X -n -o exitcode -j {job}").strip() == "3:0"
    assert work.user.show(session)["state"] == "ready"


def test_a_snapshot_is_tested_while_the_session_changes(session: str, work: Work) -> None:
    """As a CI server does it: the script's exit code, the log and the layers in one JSON object."""
    work.user.ok("snapshot", session, "green", seconds=120)
    work.user.laptop.ok(session, "echo changed since >result; sudo rm /usr/local/package")
    work.write("job.sh", "#!/bin/bash\ncat ~/result; ls /usr/local/package; exit 3\n")
    submit = "berth sbatch --wait --json -t 5 --mem=200M -o %x-%j.log"
    report = json.loads(work.sh(f"{submit} --env {session} --at green job.sh", code=3, seconds=120))
    assert (report["exit_code"], report["environment"]["snapshot"]) == (3, 1)
    assert report["log"] == f"{WORK}/job.sh-{report['job_id']}.log"
    assert work.sh(f"cat {report['log']}").splitlines() == ["tested", "/usr/local/package"]
    (snapshot,) = json.loads(work.user.ok("snapshots", session, "--json"))["snapshots"]
    assert report["environment"]["layers"] == {"home": snapshot["home"], "system": snapshot["system"]}
    assert report["environment"]["digest"] == snapshot["digest"]


def test_what_it_writes_is_its_own_until_it_is_fetched(session_apart: str, work: Work) -> None:
    body = "echo mine >result; mkdir -p sub; echo x >sub/file; ln -s file sub/link; echo not here >~/elsewhere\n"
    work.run(f"--env {session_apart}", body)
    job = work.sh("ls slurm-*.out").strip().removeprefix("slurm-").removesuffix(".out")
    assert work.user.laptop.ssh(session_apart, "cat result; ls elsewhere").stdout.decode() == "tested\n"
    assert work.sh("ls").split() == ["job.sh", f"slurm-{job}.out"]
    fetched = json.loads(work.user.ok("fetch", job, "--json"))
    assert fetched == {"copied": [f"{WORK}/{path}" for path in ("result", "sub/file", "sub/link")], "left": []}
    assert work.sh("cat result sub/link; readlink sub/link") == "mine\nx\nfile\n"
    work.sh("echo other >result")
    clash = work.user.berth("fetch", job)
    assert clash.returncode == ExitCode.CONFLICT
    assert f"1 file not copied, because another version exists: {WORK}/result".encode() in clash.stderr
    assert work.sh("cat result") == "other\n"
    work.user.ok("fetch", job, "--force")
    assert work.sh("cat result") == "mine\n"
    work.user.ok("fetch", job, "--all", "--to", f"{WORK}/home")
    assert work.sh("cat home/elsewhere") == "not here\n"


def test_a_job_becomes_a_session(session: str, work: Work, new_name: Callable[[str], str]) -> None:
    """With the system that it ran with and its home as it left it; the job's environment stays as it was."""
    work.run(f"--env {session}", "echo left by the job >~/result\n")
    job = work.sh("ls slurm-*.out").strip().removeprefix("slurm-").removesuffix(".out")
    name = new_name("promoted")
    work.user.ok("promote", job, name)
    work.user.ok("start", name, "--mem=200M", "-t", "10")
    said = work.user.laptop.ok(name, "cat result; ls /usr/local/package; echo more >>result").decode()
    assert said == "left by the job\n/usr/local/package\n"
    work.user.ok("stop", name)
    work.user.ok("delete", "--yes", "--purge", name)
    assert work.user.berth("fetch", job, "--all", "--to", f"{WORK}/home").returncode == 0
    assert work.sh("cat home/result") == "left by the job\n"
    assert work.user.berth("promote", "1", "nothing").returncode == ExitCode.NOT_FOUND


def test_each_task_of_an_array_has_its_own_home(session_apart: str, work: Work) -> None:
    body = (
        'echo "$SLURM_ARRAY_TASK_ID" >>~/result; cat ~/result; echo $SLURM_ARRAY_TASK_ID >task-$SLURM_ARRAY_TASK_ID\n'
    )
    head = f"#!/bin/bash\n#SBATCH --array=1-6 --nodelist=c1\n#BERTH --env {session_apart}\n"  # all at once, on one node
    work.write("job.sh", head + body)
    job = work.sbatch("job.sh")
    assert [work.output(f"{job}_{task}") for task in range(1, 7)] == [f"tested\n{task}\n" for task in range(1, 7)]
    work.user.ok("fetch", f"{job}_3")
    assert work.sh("ls task-*").split() == ["task-3"]
    work.user.ok("fetch", job, "--force")
    assert work.sh("cat task-*") == "1\n2\n3\n4\n5\n6\n"
    refused = work.user.berth("promote", job, "nothing")
    assert refused.returncode == ExitCode.NOT_FOUND
    assert f"berth promote {job}_1 nothing".encode() in refused.stderr


def test_its_steps_are_in_the_environment_too(session: str, work: Work) -> None:
    """On the script's node in the very same one; with the script's own streams, variables, signals and exit codes."""
    said = work.run(
        f"--env {session} --ntasks=2",
        """
cd ~; echo from the script >before; export SAID='two  words'
srun --ntasks 1 bash -c '
  cat before /dev/stdin; echo "$SAID $PWD $(ls /usr/local/package)"; echo after >after' <<<'from stdin'
cat after
srun -n2 bash -c 'echo task $SLURM_PROCID' | sort
srun -n1 bash -c 'exit 7' 2>/dev/null; echo "code $?"
timeout --signal=INT 3 srun -XQn1 sleep 60 2>/dev/null; echo "ended $?"
squeue -h -j $SLURM_JOB_ID -o %j; scontrol show hostnames $SLURM_JOB_NODELIST | wc -l
""",
    )
    inside = ["from the script", "from stdin", "two  words /home/alice /usr/local/package", "after"]
    assert said.splitlines()[:6] == [*inside, "task 0", "task 1"]
    assert "code 7" in said
    assert "ended 124" in said
    assert said.splitlines()[-2:] == ["job.sh", "1"]


def test_steps_of_a_job_that_exports_nothing(session: str, work: Work) -> None:
    said = work.run(f"--env {session} --export=NONE", "cd ~; srun bash -c 'echo $PWD; ls /usr/local/package'; umask\n")
    assert said.splitlines() == ["/home/alice", "/usr/local/package", "0022"]


def test_steps_on_other_nodes_open_it_there(session: str, work: Work) -> None:
    said = work.run(
        f"--env {session} -N2 --ntasks-per-node=2",
        "srun bash -c 'cat ~/result; echo $SLURMD_NODENAME $SLURM_PROCID >~/of-$SLURM_PROCID; ls /usr/local/package'\n",
    )
    assert sorted(said.splitlines()) == ["/usr/local/package"] * 4 + ["tested"] * 4
    job = work.sh("ls slurm-*.out").strip().removeprefix("slurm-").removesuffix(".out")
    work.user.ok("fetch", job, "--all", "--to", f"{WORK}/home")
    written = work.sh("cat home/of-*").split()
    assert written[1::2] == ["0", "1", "2", "3"]
    assert len(set(written[::2])) == 2


def test_where_the_script_comes_from(image: str, session: str, work: Work) -> None:
    """From a file, from standard input, from --wrap; by BERTH_ENV; in a profile with an empty home."""
    assert image
    work.write("job.sh", '#!/bin/sh\necho "$0 $#" $(cat ~/result)\n')
    job = work.sbatch(f"--env={session} <job.sh")
    assert work.output(job) == f"/var/spool/slurmd/job{job}/slurm_script 0 tested\n"
    assert work.output(work.sbatch(f"--env={session} --wrap 'cat ~/result; exit 4'", code=4)) == "tested\n"
    job = work.sh(f"BERTH_ENV={session} berth sbatch --wait --parsable -t 5 --mem=200M job.sh a b").strip()
    assert work.output(job) == f"/var/spool/slurmd/job{job}/slurm_script 2 tested\n"
    assert work.output(work.sbatch("--env base --wrap 'ls -A ~; cat /etc/os-release | head -n 1'")).count("\n") > 1
    # None after all: the plain job of a site, in spite of the variable.
    plain = work.sh("BERTH_ENV=dev berth sbatch --env= --wait --parsable -t 5 --mem=200M --wrap 'pwd'").strip()
    assert work.output(plain) == f"{WORK}\n"


def test_a_signal_is_for_the_script(session: str, work: Work) -> None:
    """`--signal=B:` reaches it, and it has its grace time in an environment that still stands."""
    work.write(
        "job.sh",
        "#!/bin/bash\ntrap 'cat ~/result /usr/share/common-licenses/GPL-2 | head -n 1; exit 9' USR1 TERM\n"
        "echo ready; while :; do sleep 0.1; done\n",
    )
    for order in ("--signal=USR1 --batch", "--signal=USR1 --full", ""):
        job = work.sh(f"berth sbatch --parsable -t 5 --mem=200M -o %j.out --env {session} job.sh").strip()
        wait_for(lambda job=job: "ready" in work.sh(f"cat {job}.out || :"), what="the script", seconds=60)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        work.sh(f"scancel {order} {job}")
        wait_for(lambda job=job: not work.sh(f"squeue -h -j {job} || :").strip(), what="its end", seconds=60)  # type: ignore[misc]  # as above
        assert "tested" in work.sh(f"cat {job}.out"), order


def test_what_is_refused_leaves_nothing(alice: User, session: str, work: Work) -> None:
    """sbatch's own words and code for what sbatch refuses; ours for what is ours; no environment is left behind."""
    before = environments(alice)
    work.write("job.sh", "#!/bin/bash\ntrue\n")
    work.write("no-script", "true\n")
    plain = alice.site.lab.run(["sbatch", "-p", "nowhere", f"{WORK}/job.sh"], user="alice")
    refused = alice.berth("sbatch", "--env", session, "-p", "nowhere", f"{WORK}/job.sh")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, plain.stdout, plain.stderr)
    plain = alice.site.lab.run(["sbatch", f"{WORK}/no-script"], user="alice")
    refused = alice.berth("sbatch", "--env", session, f"{WORK}/no-script")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, plain.stdout, plain.stderr)
    unknown = alice.berth("sbatch", "--env", "nobody-has-this", f"{WORK}/job.sh")
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert b"you have no session or profile nobody-has-this" in unknown.stderr
    tested = alice.berth("sbatch", "--test-only", "--env", session, f"{WORK}/job.sh")
    assert tested.returncode == 0
    assert b"to start at" in tested.stderr
    work.write("odd.sh", "#!/bin/bash\n#BERTH --partition gpu\n")
    odd = alice.berth("sbatch", f"{WORK}/odd.sh")
    assert odd.returncode == ExitCode.USAGE
    assert environments(alice) == before
    assert WORK not in work.sh("squeue -h -u alice -o %Z")


def test_nobody_reaches_anothers_job(bob: User, session: str, work: Work) -> None:
    job = work.sbatch(f"--env {session} --wrap true")
    environment = next(each for each in environments(work.user) if each["job_id"] == int(job))
    assert bob.berth("fetch", job).returncode == ExitCode.NOT_FOUND
    status, _ = bob.request(
        f"/v1/environments/{environment['id']}/promote",
        *("-X", "POST", "-H", "content-type: application/json", "-d", json.dumps({"name": "mine", "job": job})),
    )
    assert status == 404
    assert bob.request(f"/v1/environments/{environment['id']}", "-X", "DELETE") == (200, '{"environments":[]}')
    assert environment["id"] in {each["id"] for each in environments(work.user)}
    assert bob.berth("sbatch", "--env", session, "--wrap", "true").returncode == ExitCode.NOT_FOUND


def test_garbage_collection_knows_what_jobs_write_to(session: str, work: Work) -> None:
    work.run(f"--env {session}", "echo kept >~/result\n")
    job = work.sh("ls slurm-*.out").strip().removeprefix("slurm-").removesuffix(".out")
    work.user.ok("gc")
    work.user.ok("fetch", job, "--all", "--to", f"{WORK}/home")
    assert work.sh("cat home/result") == "kept\n"


def environments(user: User) -> list[dict[str, Any]]:
    status, body = user.request("/v1/environments")
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["environments"]
    return found


def test_a_batch_script_becomes_a_session(work: Work, image: str, name: str) -> None:
    """With its resources; a variable counts over the script, the command line over both."""
    work.write(
        "job.sh", "#!/bin/bash\n#SBATCH -t 20 --mem=300M -o out -c 2\n#SBATCH --gres=gpu:intel:1 --array=1-2\ntrue\n"
    )
    start = f"SBATCH_TIMELIMIT=30 berth start {name} --profile {image} --from-script job.sh"
    said = work.sh(f"{start} --mem=250M 2>&1", seconds=120)
    assert "job.sh: --output is left out" in said
    assert "job.sh: --array is left out: two jobs of one session must never run at once" in said
    record = work.sh(f"scontrol show job {work.user.show(name)['job_id']}")
    assert "TimeLimit=00:30:00" in record
    assert "mem=250M" in record
    assert "TresPerNode=gres/gpu:intel:1" in record
