"""The steps of `berth quickstart`: the tasks of a new user, and the commands for them."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import format_time, pluralize

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.schema.site import SiteView

FIRST_SESSION = "dev"
SHELL_FILE_BYTES = 1 << 20
"""Limit for the part of a shell's start file that is searched."""
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_NEW_KEY = "~/.ssh/id_ed25519.pub.new"


@dataclass(frozen=True, slots=True)
class QuickstartStep:
    """One step. Either `commands` do it, or `note` says why there is nothing to do or what is missing."""

    name: str
    purpose: str
    commands: tuple[str, ...] = ()
    changes: str = ""
    """The files that the commands write, and other lasting effects."""
    done: bool = False
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the step as a JSON object."""
        return asdict(self)


def plan_steps(invocation: Invocation, profile: str | None = None) -> list[QuickstartStep]:
    """Return the steps of this user, in order. The commands are complete shell lines."""
    site = invocation.client.site()
    return [
        _key_step(invocation, site),
        _completion_step(os.environ.get("SHELL", "")),
        _ssh_step(site),
        _session_step(invocation, profile),
    ]


def startable_profiles(invocation: Invocation) -> list[str]:
    """Return the names of the profiles that a session can start from, without duplicates, sorted."""
    from broker.cli.stores import catalog_of, profile_errors

    with profile_errors():
        contents = catalog_of(invocation).contents().values()
        return sorted({image.name for each in contents for image in each.images})


def _key_step(invocation: Invocation, site: SiteView) -> QuickstartStep:
    name, purpose = "key", "let a key of yours log in to your sessions"
    if site.login_with == "certificates":
        return _certificate_step(invocation, purpose)
    keys = len(list(invocation.client.keys()))
    if keys:
        return QuickstartStep(name, purpose, done=True, note=f"{pluralize(keys, 'key')} can log in: berth key list")
    ssh = Path.home() / ".ssh"
    public = next((f"{key}.pub" for key in _KEYS if _has_content(ssh / f"{key}.pub")), "")
    key_file = public or "id_ed25519.pub"
    add = f"berth key add ~/.ssh/{key_file}"
    if public:
        return QuickstartStep(name, purpose, (add,), "the list of your keys in Berth")
    if (ssh / "id_ed25519").exists():
        make = f"ssh-keygen -y -f ~/.ssh/id_ed25519 > {_NEW_KEY} && mv {_NEW_KEY} ~/.ssh/id_ed25519.pub"
    else:
        make = "ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519"
    return QuickstartStep(name, purpose, (make, add), "a key pair in ~/.ssh, and the list of your keys in Berth")


def _certificate_step(invocation: Invocation, purpose: str) -> QuickstartStep:
    valid = [each for each in invocation.client.certificates() if each.revoked_at is None]
    if valid:
        until = format_time(max(each.valid_before for each in valid))
        return QuickstartStep("key", purpose, done=True, note=f"your certificate is valid until {until}")
    changes = "Berth's own key for you, and a certificate for some hours"
    return QuickstartStep("key", purpose, ("berth login",), changes)


def _completion_step(shell: str) -> QuickstartStep:
    name, purpose = "completion", "complete commands, sessions and profiles with the Tab key"
    shell = Path(shell).name
    if shell in {"bash", "zsh"}:
        file, line = f".{shell}rc", f'eval "$(berth completion {shell})"'
        commands: tuple[str, ...] = (f"echo {shlex.quote(line)} >> ~/{file}",)
        done = f"berth completion {shell}" in _head(Path.home() / file)
    elif shell == "fish":
        file = ".config/fish/completions/berth.fish"
        commands = ("mkdir -p ~/.config/fish/completions", f"berth completion fish > ~/{file}")
        done = _has_content(Path.home() / file)
    else:
        return QuickstartStep(name, purpose, note="there is completion for bash, zsh and fish: berth completion --help")
    if done:
        return QuickstartStep(name, purpose, done=True, note=f"~/{file} has it")
    return QuickstartStep(name, purpose, commands, f"~/{file}; new shells have the completion")


def _has_content(file: Path) -> bool:
    """Whether it is a file that is not empty, as an interrupted command would leave it."""
    return file.is_file() and file.stat().st_size > 0


def _head(file: Path) -> str:
    """Return the beginning of a file of the user; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(SHELL_FILE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _ssh_step(site: SiteView) -> QuickstartStep:
    from broker.client.ssh_config import is_installed

    name, purpose = "ssh", f"make `ssh {FIRST_SESSION}.{site.domain}` work on this machine"
    if is_installed(Path.home()):
        return QuickstartStep(name, purpose, done=True, note=f"~/.ssh/config knows *.{site.domain}")
    changes = "~/.config/berth, a first line in ~/.ssh/config, and Berth's own key for you"
    return QuickstartStep(name, purpose, ("berth ssh-config --install",), changes)


def _session_step(invocation: Invocation, profile: str | None) -> QuickstartStep:
    name, purpose = "session", "start your first session"
    sessions = [each.name for each in invocation.client.sessions()]
    if sessions:
        return QuickstartStep(name, purpose, done=True, note=f"you have {', '.join(sorted(sessions)[:3])}: berth list")
    try:
        profiles = startable_profiles(invocation)
    except BerthError as error:
        return QuickstartStep(name, purpose, note=f"{error.message}; ask your administrator")
    if not profiles:
        return QuickstartStep(name, purpose, note="no profile is published; ask your site's profile team for one")
    chosen = profile or ("base" if "base" in profiles else profiles[0])
    command = f"berth start {FIRST_SESSION} --profile {shlex.quote(chosen)}"
    others = [each for each in profiles if each != chosen]
    note = f"other profiles: {', '.join(others)}" if others else ""
    return QuickstartStep(name, purpose, (command,), "a Slurm job, and the files of the session", note=note)
