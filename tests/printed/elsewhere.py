"""The printed commands that the test on the lab does not run, each with its reason.

Keep it short. A test fails if an entry matches no command any more, or if a command has neither an entry nor a
situation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.printed.runnable import Runnable

_NO_SYSTEMD = "the lab has no systemd: tests/vm runs the shipped units"
_INSTALLATION = (
    "installs a site, with accounts and packages: tests/vm/test_quickstart.py runs these lines as they stand"
)
_PACKAGES = "needs the registry of a package manager: tests/lab/test_root_packages.py does the same without one"
_OWN_LABS = "brings up a lab or a guest of its own: tests/lab/test_lab_lifecycle.py and tests/vm do it"
_DAEMON = "runs as a service: the lab runs it for all tests"
_GATEWAY_NODE = "prepares a gateway on a node of its own: tests/lab/test_second_login_node.py does the same on the lab"
_WEB_NODE = "prepares web access with a site's certificate: tests/component/web does the same on loopback"
_SIGNING_KEY = "needs or makes a signer's key: tests/component/profiles/test_signed_images.py runs these lines"
_CHANNELS = "changes what the sessions of other tests start from: tests/unit/cli/test_cli_channels.py runs these"
_PROFILE_TEST = "needs an image that the reader owns: tests/lab/test_profile_test.py runs these lines"
_PROFILE_REBUILD = "needs an archive of packages: tests/lab/test_profile_rebuild.py runs these lines"

_PACKAGE = "installs Berth itself: tests/component/release/test_packages.py does"

ELSEWHERE = {
    r"systemctl ": _NO_SYSTEMD,
    r"openssl (genpkey|pkey) ": _SIGNING_KEY,
    r"berth profile (sign|build) .*key": _SIGNING_KEY,
    r"berth profile test ": _PROFILE_TEST,
    r"berth profile rebuild": _PROFILE_REBUILD,
    r"berth profile (promote|rollback|deprecate|retire|history) ": _CHANNELS,
    r"cp …/systemd/": _NO_SYSTEMD,
    r"(/opt|~)/berth/bin/pip install ": _INSTALLATION,
    r"python3 -m venv ": _INSTALLATION,
    r"ln -s (/opt|~)/berth/bin/berth ": _INSTALLATION,
    r"useradd --system ": _INSTALLATION,
    r"sacctmgr add user berth ": _INSTALLATION,
    r"install -d -m (1777|755) ": _INSTALLATION,
    r"apt-get install apptainer ": _INSTALLATION,
    r"apt-get (install|remove|purge) (\./)?berth": _PACKAGE,
    r"sudo apt-get ": _PACKAGES,
    r"berth exec --root dev -- (sh -c ')?apt-get ": _PACKAGES,
    r"(\S+=\S+ )?(make|\.venv/bin/pytest) ": _OWN_LABS,
    r"(sudo )?python3 -m (slurm\.lab|tests\.site\.vm) ": _OWN_LABS,
    r"berth (controller|gateway( --worker)?|web)$": _DAEMON,
    r"apt-get install haproxy$": _WEB_NODE,
    r"install -d -m 750 -g berth-web ": _WEB_NODE,
    r"install -m 600 -o berth /dev/stdin /etc/berth/oidc_secret": _WEB_NODE,
    r"cat privkey\.pem ": _WEB_NODE,
    r"cat /etc/ssh/sshd_config\.d/": _GATEWAY_NODE,
    r"install -d -m 700 -o berth-gateway ": _GATEWAY_NODE,
    r"setpriv --reuid berth-gateway ": _GATEWAY_NODE,
    r"ssh-keyscan -t ed25519 LOGIN1 ": _GATEWAY_NODE,
    r"runuser -u berth -- sqlite3 ": "the first line of a statement that needs a backup: the page explains it",
    r"mv /var/lib/berth/registry\.db ": "the lab's registry has another user's sessions: tests/lab/test_recovery.py",
    r"rm /var/lib/berth-gateway/": "between two steps for a stolen key, which need a restart of the gateway",
    r"ssh -J you@|ssh -J you\+dev@": "has the names of a site's gateway and user: tests/lab/test_clients.py jumps",
    r"berth profile vulns ": "needs the data of a site: tests/unit/cli/test_cli_inventory.py has some",
    r"berth list --json \| jq ": "needs jq, which the lab's login node does not have",
    r"berth open \S+ \S+ --local": "serves until Ctrl-C: tests/lab/test_web_services.py does the same",
    r"berth (open \S+ (jupyter|terminal|port-8000)$|portal|browsers)": (
        "needs web access: tests/component/cli/test_open_local.py"
    ),
    r"berth (share|unshare|shares|leave|list --shared|\S+ alice\.dev)\b": (
        "needs a second user, or a session of one: tests/lab/test_sharing.py"
    ),
    r"berth profile (push|pull|export)|podman login |apptainer pull oras": (
        "needs a registry: tests/lab/test_registry_apptainer.py and tests/component/profiles"
    ),
    r"berth (profile build triton-cpu|(start|exec) kernels )": "a large image: tests/lab/test_triton_cpu.py has it",
    r"cosign verify": "needs a registry: tests/lab/test_registry_peers.py runs these with a key of its own",
    r"skopeo copy docker:|berth profile build app\.yaml": (
        "needs a container image: tests/lab/test_container_images.py builds from one"
    ),
    r"scontrol update nodename=c1 state=drain ": "other tests need the node: tests/lab/test_lost_jobs.py drains one",
    r"berth admin ": "needs an operators group on the login node: tests/lab/test_operators.py",
    r"berth up": "needs a repository with a devcontainer.json: tests/lab/test_devcontainer.py brings one up",
    r"berth tui": "fills the screen: tests/component/tui/test_tui_terminal.py runs it",
    r"sbatch --job-name=berth-<session id>": "the form of a submission, with names in angle brackets",
}
"""Patterns at the beginning of a line."""


def entry_for(command: Runnable) -> str | None:
    """Return the pattern of the entry that the command belongs to."""
    return next((pattern for pattern in ELSEWHERE if re.match(pattern, command.text)), None)
