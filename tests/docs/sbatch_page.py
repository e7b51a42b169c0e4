"""docs/reference/sbatch-options.md, from the table of options; tests/contract/test_sbatch_table.py holds that against
the cluster's own `sbatch --help`.
"""

from __future__ import annotations

from slurm.sbatch import ALLOWED, MAX_OPTIONS, MAX_VALUE_CHARACTERS, OPTIONS, REFUSED, Takes
from slurm.sources import VARIABLES

_HEAD = f"""\
# sbatch's options

Made from the program by `make docs`, and held against the cluster's own `sbatch --help` by a test. The table has
every option of sbatch 26.05 and those that older releases had beside.

**`berth sbatch`** takes all of them, and whatever a plugin of the site has added, in every form and from every source
that sbatch takes them from: it hands them on unread. Its own is `--env SESSION|PROFILE[@VERSION]`, also as `#BERTH
--env …` and `BERTH_ENV`: [batch jobs](../howto/batch.md).

**`berth start`** takes those that ask for resources, after the session's name, in every form that sbatch takes:
`--time=60`, `--time 60`, `-t 60`, `-t60`, and abbreviations that are not ambiguous. They are passed on to the real
`sbatch`, which checks their values, together with the site's plugins.

Of an option that is given more than once, the one counts that comes first here: the command line; `SBATCH_…`
variables; the `#SBATCH` lines of the script that `--from-script` names; the profile's default; the site's
(`slurm.options`). Variables count for new sessions, and with `--from-script`. An option also replaces those of lower
rank that ask for the same thing in another way: one of `--mem`, `--mem-per-cpu`, `--mem-per-gpu`; one of `--gres`,
`--gpus`, `--gpus-per-node`, `--gpus-per-socket`, `--gpus-per-task`; one of `--core-spec`, `--thread-spec`; one of
`--exclusive`, `--oversubscribe`. At most {MAX_OPTIONS} options, values of at most
{MAX_VALUE_CHARACTERS:,} printable ASCII characters.

What a session cannot have is refused on the command line, with the reason that the table gives. In a script it is
left out and named, in a variable left out. `--tasks-per-node` is another name of `--ntasks-per-node`;
`SBATCH_WAIT4SWITCH` is a part of `--switches`.

| option | short | value | variable | `berth start` |
|---|---|---|---|---|
"""
_VALUES = {Takes.VALUE: "`=VALUE`", Takes.NOTHING: "", Takes.PERHAPS: "`[=VALUE]`"}


def page() -> str:
    """The page's text."""
    variables = {option: f"`{variable}`" for variable, option in VARIABLES.items()}
    rows = []
    for name, option in sorted(OPTIONS.items()):
        letter = f"`-{option.letter}`" if option.letter else ""
        start = "yes" if name in ALLOWED else f"no: {REFUSED[name]}"
        rows.append(f"| `--{name}` | {letter} | {_VALUES[option.takes]} | {variables.get(name, '')} | {start} |\n")
    return _HEAD + "".join(rows)
