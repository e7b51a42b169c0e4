"""`berth sbatch` without an environment is sbatch: the same job record, the same words, the same exit code."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

import pytest

from slurm.commandline import parse_help

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

WORK = "/shared/home/alice/sbatch"
WAYS = ("sbatch", "berth sbatch", "berth sbatch --env=")
"""The real one, the shell's short way to it, and the one that reads every word."""

VALUES = dict(
    word.split("=", 1)
    for word in shlex.split("""
        array=1-3%2 account=team bb=capacity=1 bbf=list begin=now+1hour comment='a b' cpu-freq=medium cpus-per-task=2
        dependency=singleton deadline=now+2days delay-boot=5 chdir=/tmp error=err-%j export=NONE export-file=list
        gid=users gres=gpu:intel:1 gres-flags=enforce-binding input=/dev/zero job-name='my job' licenses=none:1
        clusters=lab distribution=block:cyclic mail-type=END mail-user=alice mcs-label=x ntasks=2 nice=7
        ntasks-per-node=1 nodes=1-2 oom-kill-step=1 output=out-%j partition=urgent power=x priority=5 profile=task
        propagate=CORE qos=normal requeue=expedite core-spec=1 signal=R:B:USR1@90 switches=1@5:00 thread-spec=1
        time=0-00:07 time-min=3 tres-bind=gres/gpu:closest tres-per-task=cpu=1 uid=alice wckey=key
        wrap="echo 'a  b'" cluster-constraint=x constraint=x|y nodefile=list mem=300M mincpus=1 reservation=none tmp=5
        nodelist=c1 exclude=c2 container=/tmp container-id=x container-type=x exclusive=user mem-per-cpu=100M
        sockets-per-node=1 cores-per-socket=1 threads-per-core=1 extra-node-info=1:1:1 ntasks-per-core=1
        ntasks-per-socket=1 cpus-per-gpu=1 gpus=1 gpu-bind=closest gpu-freq=low gpus-per-node=1 gpus-per-socket=1
        gpus-per-task=1 mem-per-gpu=100M
    """)
)
"""One for each option that takes a value, right or wrong: what sbatch says of it is the same then, too."""
RUNS = {"wait"}
"""The options with which sbatch would not return for a job that is held."""

SCRIPTS = {
    "plain": "#!/bin/sh\n#SBATCH --time=3\n#SBATCH -n 2 --job-name=named\ntrue\n",
    "spaces": "#!/bin/bash\n#SBATCH    --time=3   -n2\t--mem=100M\n\n# a comment\n#SBATCH -c 2\ntrue\n",
    "quotes": '#!/bin/bash\n#SBATCH --job-name="two words" --comment=\'it is "so"\'\n#SBATCH --comment=a\\ b\ntrue\n',
    "comment": "#!/bin/bash\n#SBATCH --time=4 # of minutes\n#SBATCH --job-name=a#b\ntrue\n",
    "late": "#!/bin/bash\n#SBATCH --time=4\necho\n#SBATCH --time=9\n",
    "not ours": "#!/bin/bash\n# SBATCH --time=9\n##SBATCH --time=8\n#SBATCHES\n#SBATCH --time=2\ntrue\n",
    "indented": "#!/bin/bash\n  #SBATCH --time=9\n   # more\n#SBATCH --time=2\ntrue\n",
    "last line": "#!/bin/bash\n#SBATCH --time=6",
    "python": "#!/usr/bin/env python3\n#SBATCH --time=6\nprint('x')\n",
    "array": "#!/bin/bash\n#SBATCH --array=1-2 --output=%A-%a\ntrue\n",
    "pbs": "#!/bin/bash\n#PBS -N named -l walltime=00:03:00\ntrue\n",
    "wrong": "#!/bin/bash\n#SBATCH --no-such-thing\ntrue\n",
    "wrong value": "#!/bin/bash\n#SBATCH --time=soon\ntrue\n",
    "open quote": "#!/bin/bash\n#SBATCH --comment='never\ntrue\n",
    "dos": "#!/bin/bash\r\n#SBATCH --time=3\r\ntrue\r\n",
    "no interpreter": "#SBATCH --time=3\ntrue\n",
    "empty": "",
    "heterogeneous": "#!/bin/bash\n#SBATCH -n 1\n#SBATCH hetjob\n#SBATCH -n 2\ntrue\n",
    "not at its end": "#!/bin/bash\n#SBATCH --time=3\\\n#SBATCH -n 2\ntrue\n",
}
WORDS = [
    "-n2 -c1 -Jx job.sh one 'two three' -- --env not-ours",
    "-HQ job.sh",
    "--part urgent --ntask 2 job.sh",
    "--tasks-per-node=2 job.sh",
    "-n1 : -n2 job.sh",
    "-- job.sh --env=x",
    "--wrap='echo --env x' -t1",
    "--comment '--env=x' job.sh",
    "-J --env job.sh",
    "no-such-script.sh",
    "--no-such-option job.sh",
    "--time job.sh",
    "-n",
    "--e=1 job.sh",
    "job.sh <job.sh",
    "<job.sh",
    "</dev/null",
    "--parsable job.sh",
    "-vvv --help",
    "--wrap=true job.sh",
    "",
]

_ONE = r"""
said() { # WAY WORDS: everything that can be told from outside of one submission, but for what no two have alike
  local out code=0 id
  eval "timeout 60 $1 $2" >out.txt 2>err.txt </dev/null || code=$?
  echo "code $code"
  id=$(grep -oE '[0-9]+' out.txt | head -n 1)
  if [[ -n $id ]] && grep -qE '^(Submitted batch job )?[0-9]+' out.txt; then
    scontrol show job "$id" | grep -vE 'SubmitLine=|Secs|(Submit|Start|Suspend|AccrueT?)Time='
    scontrol write batch_script "$id" - 2>&1
    scancel "$id"
  else
    id=none
  fi
  cat out.txt err.txt
}
"""


class Said(NamedTuple):
    way: str
    text: str


def compared(lab: Lab, cases: dict[str, str]) -> dict[str, list[Said]]:
    """Return each way's answer to each case's words, submitted from the same directory by the same user."""
    calls = []
    for case, words in cases.items():
        for way in WAYS:
            first = words if not words.startswith("<") else f" {words}"
            calls.append(f"printf '\\x1e%s\\x1f' {shlex.quote(case)}; said {shlex.quote(way)} {shlex.quote(first)}")
    calls.append(
        f"squeue -h -u alice -o '%i %j %Z' | grep -E ' external | {WORK}$' | cut -d ' ' -f 1 | xargs -r scancel"
    )
    script = f"{_ONE}\ncd {WORK}\nexport SLURM_TIME_FORMAT=standard\n" + "\n".join(calls)
    lab.run(["tee", f"{WORK}/compare"], user="alice", stdin=script.encode())
    done = lab.run(["bash", f"{WORK}/compare"], user="alice", seconds=500)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[Said]] = {case: [] for case in cases}
    for part in done.stdout.decode(errors="replace").split("\x1e")[1:]:
        case, _, text = part.partition("\x1f")
        found[case].append(Said(WAYS[len(found[case])], _without_ids(text)))
    return found


def _without_ids(text: str) -> str:
    """The text without the ids and times of this one job, as the job's own record and messages have them."""
    for job in {*re.findall(r"^(?:Submitted batch job )?(\d+)", text, re.MULTILINE), *re.findall(r"JobId=(\d+)", text)}:
        text = re.sub(rf"(?<!\d){job}(?!\d)", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+", "TIME", text)
    text = re.sub(r"(JobIdSet|RunTime)=\S+", r"\1=…", text)
    return re.sub(r"(Job|debug[23]?: .*?) \d+", r"\1 N", text)


def assert_alike(found: dict[str, list[Said]]) -> None:
    for case, said in found.items():
        real, *ours = said
        for each in ours:
            shown, own = each.text, real.text
            if (
                "--help" in case and "Usage: berth sbatch" in shown
            ):  # Berth's options come first, then sbatch's own help
                shown, own = (text.partition("Usage: sbatch")[2] for text in (shown, own))
                assert own, f"{case}: sbatch shows no usage"
            assert shown == own, f"{case}: `{each.way}` differs from sbatch"


@pytest.fixture(scope="module")
def lab_with_work(site: object, lab: Lab) -> Lab:
    assert site
    lab.sh(f"rm -rf {WORK}; mkdir -p {WORK}; cd {WORK}; printf 'A=1\\0' >list; echo c1 >>list", user="alice")
    lab.run(["tee", f"{WORK}/job.sh"], user="alice", stdin=b"#!/bin/bash\n#SBATCH -t 4\ntrue\n")
    return lab


@pytest.mark.soak
def test_every_option_makes_the_same_job(lab_with_work: Lab) -> None:
    listed = parse_help(lab_with_work.sh("sbatch --help", user="alice"))
    assert len(listed) > 90
    cases = {}
    for name, option in listed.items():
        value = VALUES.get(name)
        assert value is not None or option.takes.value != "value", f"--{name} is new: give it a value in VALUES"
        word = f"--{name}" if value is None else f"--{name}={shlex.quote(value)}"
        hold = "" if name in RUNS else "--hold "
        script = "" if name == "wrap" else " job.sh"
        cases[f"--{name}"] = f"{hold}{word}{script}"
        if option.letter and value is not None and option.takes.value == "value":
            cases[f"-{option.letter}"] = f"{hold}-{option.letter} {shlex.quote(value)}{script}"
    found = compared(lab_with_work, cases)
    assert_alike(found)
    accepted = [case for case, said in found.items() if "JobId=" in said[0].text]
    assert len(accepted) > 80, "most values should be right ones"


@pytest.mark.soak
def test_every_odd_shape_of_a_script(lab_with_work: Lab) -> None:
    for number, text in enumerate(SCRIPTS.values()):
        lab_with_work.run(["tee", f"{WORK}/odd-{number}"], user="alice", stdin=text.encode())
    as_file = {shape: f"--hold odd-{number}" for number, shape in enumerate(SCRIPTS)}
    as_input = {f"{shape}, as input": f"--hold <odd-{number}" for number, shape in enumerate(SCRIPTS)}
    assert_alike(compared(lab_with_work, as_file | as_input))


def test_every_odd_shape_of_a_command_line(lab_with_work: Lab) -> None:
    assert_alike(compared(lab_with_work, {words: f"--hold {words}" for words in WORDS}))


def test_the_environments_words_count_as_ever(lab_with_work: Lab) -> None:
    """SBATCH_… over the script's, and the command line's over both."""
    variables = "export SBATCH_TIMELIMIT=9 SBATCH_PARTITION=urgent SBATCH_JOB_NAME=by-environment"
    said = {}
    for way in WAYS:
        script = (
            f"cd {WORK}; {variables}; id=$({way} --parsable --hold -p gpu job.sh); scontrol show job $id; scancel $id"
        )
        text = lab_with_work.sh(script, user="alice")
        said[way] = re.findall(r"(?:TimeLimit|Partition|JobName)=\S+", text)
    assert list(said.values()) == [["JobName=by-environment", "TimeLimit=00:09:00", "Partition=gpu"]] * 3


def test_it_waits_and_ends_as_the_job_did(alice: User, lab_with_work: Lab) -> None:
    assert lab_with_work
    done = alice.berth("sbatch", "--wait", "-o", "/dev/null", "--wrap", "exit 5")
    assert done.returncode == 5
    assert re.fullmatch(rb"Submitted batch job \d+\n", done.stdout)
