"""The environment variables that a batch job in an environment gets from its submission.

Variables that `--export` names have precedence over the profile's, and these over inherited ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.commandline import option_in_script, option_of_first_component

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm.commandline import CommandLine

LOGIN_NODE_VARIABLES = frozenset(
    {
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LIBRARY_PATH",
        "CPATH",
        "C_INCLUDE_PATH",
        "CPLUS_INCLUDE_PATH",
        "PKG_CONFIG_PATH",
        "MANPATH",
        "INFOPATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "VIRTUAL_ENV",
        "PERL5LIB",
        "R_LIBS",
        "TMPDIR",
        "TMP",
        "TEMP",
        "BASH_ENV",
        "ENV",
        "DISPLAY",
        "XAUTHORITY",
        "PROMPT_COMMAND",
        "LS_COLORS",
        "MAIL",
    }
)
"""Variables that refer to the login node; dropped unless `--export` names them, as in batch.sh."""
LOGIN_NODE_PREFIXES = (
    "XDG_",
    "SSH_",
    "DBUS_",
    "CONDA_",
    "LMOD_",
    "MODULE",
    "LOADEDMODULES",
    "_LMFILES_",
    "_ModuleTable",
)
OWN_PREFIXES = ("BERTH_", "APPTAINER", "SINGULARITY")
"""Variables that would change how the environment is opened; always dropped, as in batch.sh."""
UNREMARKABLE = re.compile(r"(XDG_|SSH_|DBUS_|BERTH_|_)|(DISPLAY|XAUTHORITY|PROMPT_COMMAND|LS_COLORS|MAIL)$")
"""Variables that every login has and no batch script needs; no remark about them."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ENTRY = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*"|['"])+""")
"""An element of a list that is separated by commas outside quotes."""


@dataclass(frozen=True, slots=True)
class ExportedEnvironment:
    """The value of `--export`. Without the option, a job inherits all variables."""

    inherits: bool
    """Whether the job also gets variables that are not named."""
    named: tuple[str, ...]

    @classmethod
    def of(cls, line: CommandLine, script: bytes, variables: Mapping[str, str]) -> ExportedEnvironment:
        """Return the value of the command line, else of $SBATCH_EXPORT, else of the script.

        Of a heterogeneous job, use the first component, since the script runs there.
        """
        value = option_of_first_component(line, "export")
        if value is None:
            value = variables.get("SBATCH_EXPORT")
        if value is None:
            value = option_in_script("export", script)
        entries = _ENTRY.findall(value) if value else ["ALL"]
        names = [entry.partition("=")[0].strip() for entry in entries]
        words = {name.upper() for name in names} & {"ALL", "NONE", "NIL"}
        named = dict.fromkeys(name for name in names if _NAME.fullmatch(name) and name.upper() not in words)
        return cls("ALL" in words, tuple(named))

    @property
    def explicit(self) -> tuple[str, ...]:
        """The named variables, which have precedence over the profile's."""
        return tuple(name for name in self.named if not name.startswith(OWN_PREFIXES))

    def remarks(self, variables: Mapping[str, str], profile: Mapping[str, str]) -> list[str]:
        """Return remarks about variables that the job does not get, or gets with another value."""
        remarks = []
        if own := sorted(set(self.named) - set(self.explicit)):
            remarks.append(f"the job does not get {', '.join(own)}, which would change how its environment is opened")
        if not self.inherits:
            return remarks
        others = [name for name in sorted(variables) if name not in self.named and not UNREMARKABLE.match(name)]
        if dropped := [name for name in others if _is_login_nodes(name) and name not in profile]:
            remarks.append(f"the job does not get {', '.join(dropped)} of the login node{_remedy(dropped)}")
        changed = [name for name in others if name in profile and variables[name] != profile[name] and name != "PATH"]
        if changed:
            remarks.append(f"the job gets the profile's value of {', '.join(changed)}{_remedy(changed)}")
        return remarks


def _remedy(names: Iterable[str]) -> str:
    return f"; to pass the present value, use --export=ALL,{next(iter(names))}"


def _is_login_nodes(name: str) -> bool:
    return name in LOGIN_NODE_VARIABLES or name.startswith((*LOGIN_NODE_PREFIXES, *OWN_PREFIXES))
