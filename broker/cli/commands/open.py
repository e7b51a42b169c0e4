"""`berth open`: open a session in an IDE on the user's own machine, or one of its services in the browser."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.cli import output
from broker.cli.browser import has_display, open_address
from broker.cli.commands.sessions import reference_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import BerthError, InvalidInputError, RefusedError
from broker.names import MAX_SERVICE_CHARS, SERVICE_PATTERN
from broker.text.ide_links import LINKS

if TYPE_CHECKING:
    from broker.schema.site import SiteView


class OpenTarget(click.ParamType[str]):
    """An IDE, or the name of a service."""

    name = "target"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in LINKS and not (len(value) <= MAX_SERVICE_CHARS and re.fullmatch(SERVICE_PATTERN, value)):
            from profiles.recipe.service import parse_service_name  # has the words for the rule, and takes long to load

            try:
                parse_service_name(value)
            except ValueError as error:
                shown = ascii(value[:60])
                ides = ", ".join(LINKS)
                self.fail(f"{shown} is neither an IDE ({ides}) nor a valid name of a service: it {error}", param, ctx)
        return value

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        del param, ctx
        return f"Choose from: {', '.join(LINKS)}, or a service of the session"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(ide) for ide in LINKS if ide.startswith(incomplete)]


@click.command("open")
@reference_argument
@click.argument("target", type=OpenTarget(), metavar="IDE|SERVICE")
@click.option("--local", is_flag=True, help="Open a service without web access: listen here until Ctrl-C.")
@click.option("--path", metavar="PATH", help="The folder to open, absolute; default: your home in the session.")
@click.option("--print", "only_print", is_flag=True, help="Print the link or address, and open nothing.")
@json_option
@pass_invocation
def open_session(
    invocation: Invocation, name: str, target: str, *, local: bool, path: str | None, only_print: bool
) -> None:
    """Open a session in an IDE, or a service of it.

    An IDE (vscode, cursor, jetbrains or zed) uses the machine's own ssh, so `berth ssh-config` must have been set up
    there; connecting starts the session if need be. Where there is no display, as on a login node, the link is
    printed: open it where the IDE is.

    SERVICE is a web application in the session, as `berth services NAME` lists them. The command prints a link that
    logs one browser in as you, once and within a minute, and leads to the service; where there is a display, it opens
    the link. This needs a site with web access. OWNER.NAME is a session of another user, who has shared SERVICE with
    you: `berth list --shared`.

    With --local, the service is started, and the command prints an address for the browser on this machine, where only
    you can use it. For the browser on your laptop it also prints the ssh command. The service keeps running when the
    command ends.
    """
    if "." in name and (target in LINKS or local):
        raise RefusedError(
            f"{name} is a session of another user, of which you can only open shared services in a browser",
            hint="`berth list --shared` lists them; `berth open OWNER.NAME SERVICE` opens one",
        )
    if target in LINKS:
        _open_ide(invocation, name, target, local=local, path=path, only_print=only_print)
    else:
        _open_service(invocation, name, target, local=local, path=path, only_print=only_print)


def _open_ide(invocation: Invocation, name: str, ide: str, *, local: bool, path: str | None, only_print: bool) -> None:
    """Open the IDE's link, or print it."""
    if local:
        raise InvalidInputError(
            f"--local is for services, and {ide} is an IDE", hint=f"`berth open {name} {ide}` opens it"
        )
    if path is not None and not (path.startswith("/") and path.isprintable()):
        raise InvalidInputError(f"--path {path!r} is not an absolute path in the session")
    view = invocation.client.session(name)
    link = LINKS[ide](f"{view.name}.{invocation.client.site().domain}", view.owner, path or f"/home/{view.owner}")
    if invocation.json:
        output.print_json({"link": link})
    elif only_print or not has_display():
        output.print_line(link)
    else:
        _open_link(link, ide, instead=f"berth open {name} {ide} --print")
        output.print_note(f"{ide} is opening {view.name}")


def _open_service(
    invocation: Invocation, name: str, service: str, *, local: bool, path: str | None, only_print: bool
) -> None:
    """Open the service by the site's web access, or on this machine."""
    if path is not None:
        raise InvalidInputError(
            f"--path is for IDEs, and {service} is a service", hint=f"omit --path, as in `berth open {name} {service}`"
        )
    if local:
        from broker.cli.local_service import open_local

        open_local(
            invocation, name, service, lambda url, port: _service_opened(invocation, service, url, port, only_print)
        )
    else:
        from broker.cli.web_service import open_in_browser

        open_in_browser(invocation, name, service, only_print=only_print)


def _service_opened(invocation: Invocation, service: str, url: str, port: int, only_print: bool) -> None:
    """Print the service's address and how a laptop reaches it, and open it where there is a display."""
    site = invocation.client.site()
    command = _laptop_command(site, port)
    if invocation.json:
        output.print_json({"service": service, "url": url, "laptop": command})
        return
    output.print_line(url)
    output.print_note(f"on your laptop, run this first: {command}")
    output.print_note("Ctrl-C closes it; the service keeps running")
    if not only_print and has_display():
        threading.Thread(target=open_address, args=[url], daemon=True).start()


def _laptop_command(site: SiteView, port: int) -> str:
    """Return the ssh command that makes the port of this machine one of the laptop."""
    import socket

    here = socket.gethostname()
    host = site.login_host if site.login_host.partition(".")[0] == here.partition(".")[0] else here
    return f"ssh -N -L {port}:127.0.0.1:{port} {site.user}@{host}"


def _open_link(link: str, ide: str, *, instead: str) -> None:
    """Hand the IDE's link to the desktop. Raises BerthError with the desktop's message."""
    opener = shutil.which("xdg-open") or "xdg-open"
    done = subprocess.run([opener, link], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BerthError(
            f"{ide} could not be opened: {done.stderr.strip()[-200:] or f'xdg-open ended with {done.returncode}'}",
            hint=f"is it installed here? `{instead}` gives the link",
        )
