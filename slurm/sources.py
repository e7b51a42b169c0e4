"""Options for sessions from `SBATCH_…` variables and `#SBATCH` lines.

A variable overrides the script, and the command line overrides both (sbatch(1)). Options that a session may not use are
left out and reported with the reason.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING, NamedTuple

from slurm.commandline import CommandLineError, directive_words, read_command_line
from slurm.sbatch import ALLOWED, REFUSED, OptionError, Takes, check_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm.commandline import GivenOption

DIRECTIVE = "#SBATCH"
COMPONENT_SEPARATORS = ("hetjob", "packjob")
"""The word of a line between the components of a heterogeneous job; the second one is Slurm 19.05's and older."""

_VARIABLES = """
    ACCOUNT=account ACCTG_FREQ=acctg-freq ARRAY_INX=array BATCH=batch BURST_BUFFER=bb CLUSTERS=clusters
    CLUSTER_CONSTRAINT=cluster-constraint CONSOLIDATE_SEGMENTS=consolidate-segments CONSTRAINT=constraint
    CONTAINER=container CONTAINER_ID=container-id CONTAINER_TYPE=container-type CORE_SPEC=core-spec
    CPUS_PER_GPU=cpus-per-gpu CPU_FREQ_REQ=cpu-freq DEBUG=verbose DELAY_BOOT=delay-boot DISTRIBUTION=distribution
    ERROR=error EXCLUSIVE=exclusive EXPORT=export GET_USER_ENV=get-user-env GPUS=gpus GPUS_PER_NODE=gpus-per-node
    GPUS_PER_SOCKET=gpus-per-socket GPUS_PER_TASK=gpus-per-task GPU_BIND=gpu-bind GPU_FREQ=gpu-freq GRES=gres
    GRES_FLAGS=gres-flags HINT=hint IGNORE_PBS=ignore-pbs INPUT=input JOB_NAME=job-name MEM_BIND=mem-bind
    MEM_PER_CPU=mem-per-cpu MEM_PER_GPU=mem-per-gpu MEM_PER_NODE=mem NETWORK=network NO_KILL=no-kill
    NO_REQUEUE=no-requeue OPEN_MODE=open-mode OUTPUT=output OVERCOMMIT=overcommit PARTITION=partition POWER=power
    PROFILE=profile QOS=qos REQUEUE=requeue REQ_SWITCH=switches RESERVATION=reservation SEGMENT_SIZE=segment
    SIGNAL=signal SPREAD_JOB=spread-job SPREAD_SEGMENTS=spread-segments THREADS_PER_CORE=threads-per-core
    THREAD_SPEC=thread-spec TIMELIMIT=time TRES_BIND=tres-bind TRES_PER_TASK=tres-per-task
    USE_MIN_NODES=use-min-nodes WAIT=wait WAIT_ALL_NODES=wait-all-nodes WCKEY=wckey
"""

VARIABLES: dict[str, str] = {
    f"SBATCH_{name}": option for name, _, option in (word.partition("=") for word in _VARIABLES.split())
}
"""The option of each variable. SBATCH_WAIT4SWITCH is a part of `--switches`."""
WAIT_FOR_SWITCH = "SBATCH_WAIT4SWITCH"


class UsableOptions(NamedTuple):
    """Canonical options of slurm.sbatch, and the names of the options that were left out, with the reasons."""

    options: list[str]
    left_out: dict[str, str]


def options_from_environment(variables: Mapping[str, str]) -> UsableOptions:
    """Return the options in the variables. OptionError for a value that no option may have."""
    given = {VARIABLES[name]: value for name, value in variables.items() if name in VARIABLES}
    if "switches" in given and (wait := variables.get(WAIT_FOR_SWITCH)):
        given["switches"] += f"@{wait}"
    return _usable_options(given.items())


def options_from_script(script: bytes) -> UsableOptions:
    """Return the options in the `#SBATCH` lines of a script. OptionError names a line that cannot be parsed or used."""
    if script.startswith(BOM_UTF8):
        raise OptionError(
            "the script begins with a byte order mark, and sbatch reads no such script: save it without one"
        )
    given: list[GivenOption] = []
    for number, words in directive_words(DIRECTIVE, script):
        if words[0] in COMPONENT_SEPARATORS:
            raise OptionError(
                f"line {number} of the script begins another component of a heterogeneous job; a session has one: "
                "give its options on the command line, without --from-script"
            )
        try:
            line = read_command_line(words)
        except CommandLineError as error:
            raise OptionError(f"line {number} of the script: {error}") from error
        given += line.options
    return _usable_options((each.name, each.value) for each in given)


def _usable_options(given: Iterable[tuple[str, str | None]]) -> UsableOptions:
    found: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, value in given:
        if name in REFUSED:
            left_out[name] = REFUSED[name]
        elif name in ALLOWED:
            plain = value is None or ALLOWED[name].takes is Takes.NOTHING or not value
            found.pop(name, None)
            found[name] = f"--{name}" if plain else f"--{name}={value}"
    options = list(found.values())
    check_options(options)
    return UsableOptions(options, left_out)
