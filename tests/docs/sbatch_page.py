"""docs/reference/sbatch-options.md, from the table of options; tests/contract/test_sbatch_table.py holds that against
the cluster's own `sbatch --help`.
"""

from __future__ import annotations

from slurm.sbatch import ALLOWED, MAX_OPTIONS, MAX_VALUE_CHARACTERS, OPTIONS, REFUSED, Takes
from slurm.sources import VARIABLES

_HEAD = f"""\
# sbatch's options

`make docs` generates this page from the program, and a test compares it with the cluster's own `sbatch --help`. The
table has every option of sbatch 26.05, and options of older releases.

**`berth sbatch`** accepts all of them, and every option of a plugin of the site, in every form and from every source
that sbatch accepts: it passes them on without reading them. Its only own option is
`--env SESSION|PROFILE[@VERSION]`, also as `#BERTH --env …` and `BERTH_ENV`: [batch jobs](../howto/batch.md).

**`berth start`** accepts the options that ask for resources, after the session's name, in every form that sbatch
accepts: `--time=60`, `--time 60`, `-t 60`, `-t60`, and unambiguous abbreviations. It passes them on to the real
`sbatch`, which checks their values, together with the site's plugins.

If an option is given more than once, the first of these sources counts:

1. the command line;
2. `SBATCH_…` variables, for new sessions and with `--from-script`;
3. the `#SBATCH` lines of the script that `--from-script` names;
4. the profile's default;
5. the site's default (`slurm.options`).

An option also replaces options of lower rank that ask for the same resource in another form: one of `--mem`,
`--mem-per-cpu`, `--mem-per-gpu`; one of `--gres`, `--gpus`, `--gpus-per-node`, `--gpus-per-socket`, `--gpus-per-task`;
one of `--core-spec`, `--thread-spec`; one of `--exclusive`, `--oversubscribe`. There may be at most {MAX_OPTIONS}
options, with values of at most {MAX_VALUE_CHARACTERS:,} printable ASCII characters.

`berth start` refuses the other options on the command line, with the reason in the table. It omits and names them in a
script, and omits them in a variable. `--tasks-per-node` is another name of `--ntasks-per-node`; `SBATCH_WAIT4SWITCH` is
a part of `--switches`.

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
