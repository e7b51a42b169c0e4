"""Batch scripts of many shapes: `berth sbatch` against sbatch, without an environment and in one.

All jobs of a way are submitted side by side, each in a directory of its own, and what they left there is compared,
with their records. docs/howto/batch.md has the differences that are meant.
"""

from __future__ import annotations

import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.lab.batch_work import WORK, Work

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import User

WAYS = {"sbatch": "sbatch", "berth": "berth sbatch", "inside": "berth sbatch --env base"}
"""The ways of submission; the others are compared with the first one."""
FIELDS = "jobname,state,exitcode,derivedexitcode,alloccpus,nnodes,timelimit,comment,workdir"
COMMON = "export SBATCH_TIMELIMIT=5 SBATCH_MEM_PER_NODE=100"
JOB_ID = re.compile(r"(?<!\d)1\d{5}(?!\d)")
"""The lab's first job is the 100001st."""
AT_ONCE = 16


@dataclass(frozen=True)
class Shape:
    """A script, and how it is submitted: `sb` stands for each of WAYS."""

    script: str | bytes = "#!/bin/sh\ntrue\n"
    command: str = "sb --wait -o out job.sh"
    files: dict[str, str] = field(default_factory=dict)
    """More files of its directory."""
    inside: dict[str, str] = field(default_factory=dict)
    """The intended differences in an environment."""


def bash(body: str, head: str = "") -> str:
    return f"#!/bin/bash\n{head}{body}\n"


SHAPES = {
    # What ends a job, and what --wait makes of it.
    "succeeds": Shape(bash("echo done")),
    "fails": Shape(bash("exit 3")),
    "errexit": Shape("#!/bin/bash -e\nfalse\necho never\n"),
    "trap-on-exit": Shape(bash("trap 'echo bye; exit 4' EXIT; exit 1")),
    "cancels-itself": Shape(
        bash("trap 'echo told; exit 5' TERM; scancel --batch -s TERM $SLURM_JOB_ID; sleep 30 & wait")
    ),
    # Job arrays.
    "array": Shape(
        bash("echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT; exit $((SLURM_ARRAY_TASK_ID % 2))"),
        "sb --wait -a 1-3 -o %A_%a.out job.sh",
    ),
    "array-with-steps": Shape(
        bash("echo $SLURM_ARRAY_TASK_ID", "#SBATCH --array=0-6:3\n"), "sb --wait -o %A_%a.out job.sh"
    ),
    # Heterogeneous jobs.
    "components": Shape(
        bash(
            "echo $SLURM_HET_SIZE; srun --het-group=0,1 sh -c 'echo of $SLURM_PROCID' | sort; env | grep -c HET_GROUP"
        ),
        "sb --wait -o out -n1 : -n2 job.sh",
    ),
    "components-of-the-script": Shape(
        bash("srun --het-group=1 -l echo x | sort", "#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n2\n"),
        "sb --wait -o out job.sh",
    ),
    # Where output and input are.
    "patterns": Shape(bash("echo x; echo y >&2"), "sb --wait -J 'a name' -o '%x.%u.%j' -e %j.err job.sh"),
    "default-output": Shape(bash("echo x; echo y >&2"), "sb --wait job.sh"),
    "appends": Shape(
        bash("echo x"), "sb --wait -o out --open-mode=append job.sh; sb --wait -o out --open-mode=append job.sh"
    ),
    "input": Shape(bash("cat; readlink /proc/self/fd/0"), "echo given >in; sb --wait -i in -o out job.sh"),
    "no-input": Shape(bash("cat; test -t 0 || echo no terminal")),
    # Where the script comes from.
    "standard-input": Shape(bash("echo $# $SLURM_JOB_NAME"), "sb --wait -o out <job.sh"),
    "wrapped": Shape(command="sb --wait -o out --wrap 'echo \"two  words\" $# $0'"),
    "on-path": Shape(
        bash("echo found $1"), "mkdir bin; mv job.sh bin/on-path; PATH=$PWD/bin:$PATH; sb --wait -o out on-path x"
    ),
    "arguments": Shape(bash('echo $#; printf "<%s>" "$@"'), "sb --wait -o out job.sh -o x '' 'two  words' '*' --env"),
    "script-missing": Shape(command="sb --wait nothing.sh"),
    # What a script looks like.
    "crlf": Shape("#!/bin/sh\r\necho x\r\n"),
    "byte-order-mark": Shape(b"\xef\xbb\xbf#!/bin/sh\necho x\n"),
    "no-interpreter": Shape("echo x\n"),
    "interpreter-missing": Shape(
        "#!/no/such/interpreter\necho x\n",
        inside={
            "code": "126\n",
            "out": "/run/berth/node/enter: /var/spool/slurmd/jobJOB/slurm_script: /no/such/interpreter: "
            "bad interpreter: No such file or directory\n",
            "record": "job.sh|FAILED|126:0|0:0|1|1|00:05:00||DIRECTORY",
        },
    ),
    "empty": Shape(""),
    "no-last-newline": Shape("#!/bin/sh\necho x"),
    "awk": Shape('#!/usr/bin/awk -f\nBEGIN { print "awk", ARGC }\n', "sb --wait -o out job.sh a b"),
    "options-quoted": Shape(bash("true", "#SBATCH --comment=\"two words\" -J 'the name' # not this\n")),
    "own-text": Shape(bash('sed -n \'/^DATA/,$p\' "$0" | tail -n +2; wc -l <"$0"; exit 0\nDATA\nof mine')),
    "own-name": Shape(bash('echo "$0" "${BASH_SOURCE[0]}"; test -x "$0" && head -n 1 "$0"')),
    # Variables.
    "export-none": Shape(bash("echo ${A-none}"), "export A=1; sb --wait -o out --export=NONE job.sh"),
    "export-names": Shape(
        bash("echo ${A-none} ${B-none} ${C-none}"), "export A=1 B=2 C=3; sb --wait -o out --export=A,C=4 job.sh"
    ),
    "export-all-and": Shape(
        bash("echo ${A-none} ${C-none}"), "export A=1; sb --wait -o out --export=ALL,C='x y' job.sh"
    ),
    "export-variable": Shape(
        bash("echo ${A-none}", "#SBATCH --export=ALL\n"), "export A=1; SBATCH_EXPORT=NONE sb --wait -o out job.sh"
    ),
    "export-odd-values": Shape(bash('printf "%q\\n" "$A"'), "export A=$'a\\nb\\t\"c\\\\'; sb --wait -o out job.sh"),
    "export-names-that-the-scripts-use": Shape(
        bash(
            'echo "$WORK $TOP $NOTE $MASK $HOMES $USAGE $LOG_STYLE $name $code"\n'
            "srun bash -c 'echo $WORK $NODE_DIR $USAGE $note $words'\n"
            "scontrol show job $SLURM_JOB_ID | grep -c JobState; echo $command"
        ),
        "export WORK=1 TOP=2 NOTE=3 MASK=4 HOMES=5 USAGE=6 LOG_STYLE=7 name=8 code=9 NODE_DIR=10 note=11 words=12"
        " command=13; sb --wait -o out job.sh",
    ),
    "slurms-variables": Shape(bash("compgen -e | grep ^SLURM | sort"), "sb --wait -o out -n2 -c1 job.sh"),
    "umask": Shape(bash("umask; srun sh -c umask; mkdir made; stat -c %a made"), "umask 027; sb --wait -o out job.sh"),
    "limits": Shape(bash("ulimit -n -s -c; srun bash -c 'ulimit -n'"), "ulimit -n 777; sb --wait -o out job.sh"),
    # Directories.
    "where": Shape(bash('pwd; pwd -P; echo "$SLURM_SUBMIT_DIR"; cd "$SLURM_SUBMIT_DIR" && echo x >made')),
    "chdir": Shape(bash('pwd; echo "$SLURM_SUBMIT_DIR"; echo x >made'), "mkdir sub; sb --wait -D sub -o out job.sh"),
    "chdir-in-script": Shape(bash("pwd", "#SBATCH --chdir=sub\n"), "mkdir sub; sb --wait -o out job.sh"),
    "chdir-tmp": Shape(
        bash("pwd; echo x >$SLURM_JOB_ID; ls $SLURM_JOB_ID; rm $SLURM_JOB_ID"),
        'sb --wait -D /tmp -o "$PWD/out" job.sh',
        inside={"said.err": "berth: the job works in the environment's own /tmp, which is deleted at the job's end\n"},
    ),
    "odd-names": Shape(bash("pwd; echo x >made"), "mkdir 'a b,c:d\"e'; cd 'a b,c:d\"e'; sb --wait -o out ../job.sh"),
    "finds-itself": Shape(
        bash("f=$(scontrol show job $SLURM_JOB_ID | sed -n 's/^ *Command=//p'); echo $f; . ${f%/*}/beside"),
        files={"beside": "echo beside\n"},
    ),
    # Steps.
    "steps-on-nodes": Shape(bash("srun pwd; srun sh -c 'echo $SLURM_NODEID' | sort"), "sb --wait -N 2 -o out job.sh"),
    "steps-output": Shape(
        bash("srun -n1 -o one pwd; srun -n2 -o 'of-%t' -e err-%j echo x; echo in >i; srun -n1 -i i cat"),
        "sb --wait -n2 -o out job.sh",
    ),
    "steps-chdir": Shape(
        bash(
            "mkdir a; srun -n1 -D a pwd; srun -n1 --chdir=/tmp pwd; SLURM_REMOTE_CWD=$PWD/a srun -n1 pwd;"
            "srun -n1 -Da -o o pwd"
        )
    ),
    "multi-prog": Shape(
        bash("srun -n3 --multi-prog conf | sort"),
        "sb --wait -n3 -o out job.sh",
        files={
            "conf": "# x\n0 echo first %t\n1-2 sh \\\n./rest %o 'two  words'\n",
            "rest": 'echo "$# <$1> <$2>"; pwd\n',
        },
    ),
    "sbcast": Shape(
        bash("p=/tmp/cast-$SLURM_JOB_ID; sbcast /bin/echo $p && srun $p it runs; srun rm -f $p; srun -n1 -N1 pwd"),
        "sb --wait -N2 -o out job.sh",
    ),
    "sbcast-to-here": Shape(bash("sbcast -f job.sh ./copied && srun head -n 1 copied")),
    "other-commands": Shape(
        bash(
            "for c in salloc sattach strigger sreport sbcast srun squeue; do $c --version; done;"
            "squeue -h -j $SLURM_JOB_ID -o '%o %Z'"
        )
    ),
    # Jobs of jobs.
    "dependencies": Shape(
        bash("echo $1 >>order; exit $1"),
        "a=$(sb --parsable -o out job.sh 0); b=$(sb --parsable -o out -d afterok:$a job.sh 1);"
        "c=$(sb --parsable -o out -d afternotok:$b job.sh 2); sb --wait -o out -d afterany:$c job.sh 3",
    ),
    "child": Shape(
        bash("sbatch --wait -o child.out child.sh x; echo $?"),
        files={"child.sh": "#!/bin/sh\necho $HOME; pwd; echo $1 $SLURM_SUBMIT_DIR; exit 2\n"},
    ),
    "again": Shape(
        bash("[ -e first ] && echo second >second && exit; touch first; trap 'sbatch --wait -o again.out \"$0\"' EXIT")
    ),
    # What sbatch says.
    "test-only": Shape(command="sb --test-only -o out job.sh 2>&1 | sed 's/at .* using/at a time using/'"),
    "refused": Shape(command="sb --wait -p nowhere -o out job.sh"),
    "option-unknown": Shape(command="sb --wait --no-such-option job.sh"),
}


@pytest.fixture(scope="module")
def left(people: dict[str, User], image: str) -> dict[str, dict[str, dict[str, str]]]:
    """The files that the jobs of each way and shape have left in their directories, by name."""
    assert image
    work = Work(people["alice"])
    place = work.lab.shared / WORK.removeprefix("/shared/")
    owner = place.stat()
    for way in WAYS:
        for name, shape in SHAPES.items():
            directory = place / way / name
            directory.mkdir(parents=True)
            text = shape.script if isinstance(shape.script, bytes) else shape.script.encode()
            (directory / "job.sh").write_bytes(text)
            for other, content in shape.files.items():
                (directory / other).write_text(content)
    for path in (place, *place.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)

    began = work.sh("date +%FT%T").strip()

    def run(way: str, name: str) -> None:
        shape = SHAPES[name]
        directory = f"{WORK}/{way}/{name}"
        said = f'{COMMON}; sb() {{ {WAYS[way]} "$@"; }}; {shape.command}'
        command = f"cd {directory}; bash -c {shlex.quote(said)} >said 2>said.err; echo $? >code"
        work.lab.run(["bash", "-c", command], user="alice", seconds=150)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # In turn, so that the ways share the nodes.
        list(pool.map(lambda each: run(*each), [(way, name) for name in SHAPES for way in WAYS]))
    records = work.sh(f"sacct -X -P -n -S {began} -o {FIELDS}").splitlines()
    found: dict[str, dict[str, dict[str, str]]] = {}
    for way in WAYS:
        for name in SHAPES:
            there = f"{WORK}/{way}/{name}"
            files = _files(place / way / name, there)
            of_these = [each for each in records if f"{each.rpartition('|')[2]}/".startswith(f"{there}/")]
            files["record"] = "\n".join(sorted(_normal(each, there) for each in of_these))
            found.setdefault(way, {})[name] = files
    return found


REFUSED = {
    *("script-missing", "crlf", "byte-order-mark", "no-interpreter", "empty", "test-only", "refused", "option-unknown"),
    "chdir-tmp",
}
"""Shapes of which no job comes, or one whose record does not name the directory."""


def _files(place: Path, directory: str) -> dict[str, str]:
    return {
        _normal(str(path.relative_to(place)), directory): _normal(path.read_text(errors="backslashreplace"), directory)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def _normal(text: str, directory: str) -> str:
    """Without what differs between any two jobs."""
    text = JOB_ID.sub("JOB", text.replace(directory, "DIRECTORY"))
    text = re.sub(r"\bc[123]\b", "NODE", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", "TIME", text)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("way", ["berth", "inside"])
def test_a_job_does_what_it_does_by_sbatch(left: dict[str, dict[str, dict[str, str]]], way: str, name: str) -> None:
    expected, found = left["sbatch"][name], left[way][name]
    assert bool(expected["record"]) == (name not in REFUSED), expected
    assert found == (expected | SHAPES[name].inside if way == "inside" else expected)
