"""The table of commands: groups for the help, modules, aliases, and other words that users type.

It has each command's first line of help, so that `berth --help` imports no command; a test compares both.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A command: its module in `commands` and its attribute there, and its first line of help."""

    location: str
    summary: str


_DAILY = {
    "start": Entry("start:start", "Start a session and wait until it is ready."),
    "up": Entry("up:up", "Bring up the dev container of a repository as a session."),
    "list": Entry("list:list_sessions", "List your sessions."),
    "tui": Entry("tui:tui", "Open the terminal interface."),
    "show": Entry("sessions:show", "Show the details of a session."),
    "ssh": Entry("ssh:ssh", "Log in to a session from a login node, with ssh."),
    "exec": Entry("ssh:execute", "Run a command in a session."),
    "cp": Entry("cp:copy_files", "Copy files to or from a session."),
    "open": Entry("open:open_session", "Open a session in an IDE, or a service of it."),
    "portal": Entry("web:portal", "Open the portal: your sessions in the browser."),
    "services": Entry("session_services:list_session_services", "List the services of a session, with their states."),
    "forward": Entry("forward:forward", "Publish a port of a session as a service, or list those that are published."),
    "stop": Entry("sessions:stop", "End a session's job and keep its files."),
    "restart": Entry("restart:restart", "Stop a session and start it again."),
    "extend": Entry("extend:extend", "Extend the time limit of a session's job."),
    "resize": Entry("resize:resize", "Change the resources of a running session."),
    "set": Entry("set:set_options", "Change a session's policies."),
    "rename": Entry("rename:rename", "Rename a stopped session."),
    "delete": Entry("delete:delete", "Delete a stopped session and all its files."),
    "restore": Entry("delete:restore", "Restore a deleted session."),
    "logs": Entry("logs:logs", "Print the log of a session's jobs, newest last."),
    "events": Entry("logs:events", "List the events of one or all of your sessions."),
    "explain": Entry("history:explain", "Explain a session's state, and suggest what to do."),
    "history": Entry("history:history", "List the jobs of a session, the latest first."),
    "cluster": Entry("cluster:cluster", "Show nodes, partitions and queue, and what would start now."),
}
_SNAPSHOTS = {
    "snapshot": Entry("snapshots:snapshot", "Save a session's present state as a snapshot."),
    "snapshots": Entry("snapshots:snapshots", "List the snapshots of a session, or delete one."),
    "rollback": Entry("snapshots:rollback", "Roll a session back to a snapshot."),
    "clone": Entry("clone:clone", "Create a session with the files of another."),
    "diff": Entry("diff:diff", "Show changed packages and files."),
    "size": Entry("space:size", "Show the disk usage of a session."),
    "verify": Entry("space:verify", "Compare a session's layers with their checksums."),
    "flatten": Entry("space:flatten", "Merge the layers of a stopped session."),
    "gc": Entry("space:gc", "Free disk space that you no longer need."),
}
_BATCH = {
    "sbatch": Entry("sbatch:sbatch", "Submit a batch job, optionally in an environment."),
    "fetch": Entry("environments:fetch", "Copy the output of a batch job."),
    "promote": Entry("environments:promote", "Create a session from a batch job's files."),
}
_PROFILES = {
    "profile": Entry("profile:profile", "Build images from profiles, and look after them."),
    "switch": Entry("clone:switch", "Switch a session to another profile or version."),
    "upgrade": Entry("upgrade:upgrade", "Take the version that a session follows now."),
}
_ACCESS = {
    "ssh-config": Entry("ssh_config:ssh_config", "Print, write or install a configuration of OpenSSH."),
    "key": Entry("keys:key", "Manage the public keys for your sessions."),
    "login": Entry("login:login", "Get a login certificate for some hours."),
    "logout": Entry("login:logout", "Revoke your login certificates."),
    "browsers": Entry("web:browsers", "List the browsers that are logged in as you, or log them out."),
    "share": Entry("share:share", "Give another user or a Unix group a part in a session."),
    "unshare": Entry("share:unshare", "End the sharing of a session with a user or group."),
    "shares": Entry("share:shares", "List with whom your sessions are shared."),
    "leave": Entry(
        "share:leave", "Give up your access to a session of another user, and to its snapshots and services."
    ),
    "who": Entry("logs:who", "Show the connections to a session."),
}
_ADMINISTRATION = {
    "admin": Entry("admin:admin", "See and stop the sessions of all users, as an operator."),
    "doctor": Entry("doctor:doctor", "Check this machine and the controller."),
    "config": Entry("config:config", "Show or check the configuration."),
    "registry": Entry("services:registry", "Manage the database of sessions."),
    "ca": Entry("login:ca", "Manage the certificate authorities."),
}
_HELP = {
    "help": Entry("help:show_help", "Show the help of a command."),
    "quickstart": Entry("quickstart:quickstart", "Set up your account for Berth, step by step."),
    "version": Entry("help:version", "Show the version."),
    "completion": Entry("completion:completion", "Print the completion script of a shell."),
}
HIDDEN = {
    "connect": Entry("ssh:connect", "Connect stdin and stdout to a session, for ssh."),
    "controller": Entry("services:controller", "Run the controller in the foreground, until SIGTERM."),
    "gateway": Entry("services:gateway", "Run the gateway in the foreground, until SIGTERM."),
    "web": Entry("services:web", "Run berth-web, the gateway for browsers, in the foreground until SIGTERM."),
}
"""Commands that other programs call: ssh and systemd."""

GROUPS: dict[str, dict[str, Entry]] = {
    "Daily work": _DAILY,
    "Snapshots and files": _SNAPSHOTS,
    "Batch jobs": _BATCH,
    "Profiles": _PROFILES,
    "Access": _ACCESS,
    "Administration": _ADMINISTRATION,
    "Help": _HELP,
}
"""The sections of `berth --help`."""

COMMANDS: dict[str, Entry] = {name: entry for group in (*GROUPS.values(), HIDDEN) for name, entry in group.items()}

ALIASES = {"ls": "list", "ps": "list", "rm": "delete", "status": "show"}
"""Other names that work."""

SUGGESTIONS = {
    **dict.fromkeys(("create", "new", "run", "launch"), "start"),
    **dict.fromkeys(("cancel", "kill", "down", "end", "scancel"), "stop"),
    **dict.fromkeys(("remove", "del", "destroy"), "delete"),
    **dict.fromkeys(("get", "queue", "squeue", "sessions"), "list"),
    **dict.fromkeys(("describe", "info", "inspect"), "show"),
    **dict.fromkeys(("attach", "shell", "enter", "console"), "ssh"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("commit", "save", "checkpoint"), "snapshot"),
    **dict.fromkeys(("revert", "undo"), "rollback"),
    **dict.fromkeys(("copy", "scp"), "cp"),
    **dict.fromkeys(("mv", "move"), "rename"),
    **dict.fromkeys(("fork", "duplicate"), "clone"),
    **dict.fromkeys(("undelete", "recover"), "restore"),
    **dict.fromkeys(("build", "profiles", "images", "image"), "profile"),
    **dict.fromkeys(("keys",), "key"),
    **dict.fromkeys(("why", "debug"), "explain"),
    **dict.fromkeys(("submit",), "sbatch"),
    **dict.fromkeys(("nodes", "sinfo", "partitions", "free"), "cluster"),
    **dict.fromkeys(("update",), "upgrade"),
    **dict.fromkeys(("setup", "init", "tutorial"), "quickstart"),
    **dict.fromkeys(("ui", "top", "dashboard", "menu"), "tui"),
    **dict.fromkeys(("browser",), "portal"),
    **dict.fromkeys(("grant", "invite"), "share"),
    **dict.fromkeys(("revoke", "uninvite"), "unshare"),
}
"""Words of other programs, and the command that does the same here."""
