"""`berth open`: open a session in an IDE on the user's own machine, or print the link for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable


def _vs_code(scheme: str) -> Callable[[str, str, str], str]:
    """Return a function for links `SCHEME://vscode-remote/ssh-remote+HOST/PATH` of the Remote - SSH extension."""

    def link(host: str, _user: str, path: str) -> str:
        return f"{scheme}://vscode-remote/ssh-remote+{host}{quote(path)}"

    return link


def _jetbrains(host: str, user: str, path: str) -> str:
    """Return a link of JetBrains Gateway, which asks for the IDE and installs it in the session's home."""
    fields = {"type": "ssh", "deploy": "true", "host": host, "port": "22", "user": user, "projectPath": path}
    return "jetbrains-gateway://connect#" + "&".join(
        f"{name}={quote(value, safe='')}" for name, value in fields.items()
    )


def _zed(host: str, _user: str, path: str) -> str:
    """Return a link that opens the same as `zed ssh://HOST/PATH`."""
    return f"zed://ssh/{host}{quote(path)}"


LINKS: dict[str, Callable[[str, str, str], str]] = {
    "vscode": _vs_code("vscode"),
    "cursor": _vs_code("cursor"),
    "jetbrains": _jetbrains,
    "zed": _zed,
}
"""IDE → what makes its link of the session's host name, the user there, and an absolute path."""


@click.command("open")
@name_argument
@click.argument("ide", type=click.Choice(list(LINKS)))
@click.option("--path", metavar="PATH", help="The folder to open, absolute; default: your home in the session.")
@click.option("--print", "only_print", is_flag=True, help="Print the link, and open nothing.")
@json_option
@pass_invocation
def open_session(invocation: Invocation, name: str, ide: str, *, path: str | None, only_print: bool) -> None:
    """Open a session in an IDE, or print its link.

    The IDE uses the machine's own ssh, so `berth ssh-config` must have been set up there; connecting starts the
    session if need be. Where there is no display, as on a login node, the link is printed: open it where the IDE is.
    """
    if path is not None and not (path.startswith("/") and path.isprintable()):
        raise InvalidInputError(f"--path {path!r} is not an absolute path in the session")
    view = invocation.client.session(name)
    link = LINKS[ide](f"{view.name}.{invocation.client.site().domain}", view.owner, path or f"/home/{view.owner}")
    if invocation.json:
        output.print_json({"link": link})
        return
    opener = shutil.which("xdg-open") if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else None
    if only_print or opener is None:
        output.print_line(link)
        return
    done = subprocess.run([opener, link], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BerthError(
            f"{ide} could not be opened: {done.stderr.strip()[-200:] or f'xdg-open ended with {done.returncode}'}",
            hint=f"is it installed here? `berth open {name} {ide} --print` gives the link",
        )
    output.print_note(f"{ide} is opening {view.name}")
