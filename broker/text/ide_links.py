"""Links that open a session in an IDE on the user's own machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable


def _vs_code_link(scheme: str) -> Callable[[str, str, str], str]:
    """Return a function for links `SCHEME://vscode-remote/ssh-remote+HOST/PATH` of the Remote - SSH extension."""

    def link(host: str, _user: str, path: str) -> str:
        return f"{scheme}://vscode-remote/ssh-remote+{host}{quote(path)}"

    return link


def _jetbrains_link(host: str, user: str, path: str) -> str:
    """Return a link of JetBrains Gateway, which asks for the IDE and installs it in the session's home."""
    fields = {"type": "ssh", "deploy": "true", "host": host, "port": "22", "user": user, "projectPath": path}
    return "jetbrains-gateway://connect#" + "&".join(
        f"{name}={quote(value, safe='')}" for name, value in fields.items()
    )


def _zed_link(host: str, _user: str, path: str) -> str:
    """Return a link that opens the same as `zed ssh://HOST/PATH`."""
    return f"zed://ssh/{host}{quote(path)}"


LINKS: dict[str, Callable[[str, str, str], str]] = {
    "vscode": _vs_code_link("vscode"),
    "cursor": _vs_code_link("cursor"),
    "jetbrains": _jetbrains_link,
    "zed": _zed_link,
}
"""IDE → what makes its link of the session's host name, the user there, and an absolute path."""
