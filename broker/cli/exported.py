"""The environment variables of a submission that a batch job in an environment gets.

Those that `--export` names come before the profile's, and the profile's before those that are only inherited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.commandline import of_first_component, of_head

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
"""Variables that say something of the login node: dropped unless `--export` names them, as in batch.sh."""
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
"""Variables that would change how the environment is opened: dropped in any case, as in batch.sh."""
UNREMARKABLE = re.compile(r"(XDG_|SSH_|DBUS_|BERTH_|_)|(DISPLAY|XAUTHORITY|PROMPT_COMMAND|LS_COLORS|MAIL)$")
"""Those that every login has, and no batch script misses."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ENTRY = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*"|['"])+""")
"""One of a list whose parts are between commas, as far as those are not quoted."""


@dataclass(frozen=True, slots=True)
class ExportedEnvironment:
    """The value of `--export`. Without the option a job inherits all variables."""

    inherits: bool
    """Whether the job has the variables of the submission that are not named."""
    named: tuple[str, ...]

    @classmethod
    def of(cls, line: CommandLine, script: bytes, variables: Mapping[str, str]) -> ExportedEnvironment:
        """Read the command line, the variable and the script, of which the first that says something counts.

        Of a heterogeneous job the first component's, since the script runs there.
        """
        said = of_first_component(line, "export")
        if said is None:
            said = variables.get("SBATCH_EXPORT")
        if said is None:
            said = of_head("export", script)
        entries = _ENTRY.findall(said) if said else ["ALL"]
        names = [entry.partition("=")[0].strip() for entry in entries]
        words = {name.upper() for name in names} & {"ALL", "NONE", "NIL"}
        named = dict.fromkeys(name for name in names if _NAME.fullmatch(name) and name.upper() not in words)
        return cls("ALL" in words, tuple(named))

    @property
    def explicit(self) -> tuple[str, ...]:
        """Those that the job gets whatever the profile says."""
        return tuple(name for name in self.named if not name.startswith(OWN_PREFIXES))

    def remarks(self, variables: Mapping[str, str], profile: Mapping[str, str]) -> list[str]:
        """Name the variables that the job does not get, or gets with another value, without those of every login."""
        said = []
        if ours := sorted(set(self.named) - set(self.explicit)):
            said.append(f"the job does not get {', '.join(ours)}, which would change how its environment is opened")
        if not self.inherits:
            return said
        others = [name for name in sorted(variables) if name not in self.named and not UNREMARKABLE.match(name)]
        if dropped := [name for name in others if _is_login_nodes(name) and name not in profile]:
            said.append(f"the job does not get {', '.join(dropped)}, of the login node{_remedy(dropped)}")
        changed = [name for name in others if name in profile and variables[name] != profile[name] and name != "PATH"]
        if changed:
            said.append(f"the profile's value counts for {', '.join(changed)}{_remedy(changed)}")
        return said


def _remedy(names: Iterable[str]) -> str:
    return f"; to pass it on, name it: --export=ALL,{next(iter(names))}"


def _is_login_nodes(name: str) -> bool:
    return name in LOGIN_NODE_VARIABLES or name.startswith((*LOGIN_NODE_PREFIXES, *OWN_PREFIXES))
