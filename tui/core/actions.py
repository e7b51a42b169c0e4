"""The catalogue of actions on sessions: keys, forms, dangers, and the equivalent `berth` command lines.

It is pure: `tui.workers` sends the requests, and `tui.screens` shows forms and questions.
"""

from __future__ import annotations

from broker.forms import action_forms as forms
from broker.forms import sharing_forms as sharing
from broker.forms.start_form import new_session_form, start_command
from broker.text import allowed
from tui.core.session_action import CONNECT, FILES, JOB, LOOK, POLICY, SHARING, Danger, RunMode, SessionAction

_JOB_ACTIONS = (
    SessionAction(
        id="new",
        key="n",
        title="start a new session",
        group=JOB,
        verb=("start",),
        needs_session=False,
        make_form=new_session_form,
        form_words=start_command,
        missing=("NAME", "--profile", "PROFILE"),
    ),
    SessionAction(
        id="start",
        key="r",
        title="start the session",
        group=JOB,
        verb=("start",),
        rule=allowed.can_start,
        several=True,
    ),
    SessionAction(
        id="stop",
        key="x",
        title="stop the session, and keep its files",
        group=JOB,
        verb=("stop",),
        rule=allowed.can_stop,
        danger=Danger.ENDS_PROGRAMS,
        several=True,
    ),
    SessionAction(
        id="stop-at",
        key="X",
        title="stop the session at a time",
        group=JOB,
        verb=("stop",),
        rule=allowed.has_live_job,
        several=True,
        make_form=forms.stop_time_form,
        form_words=forms.stop_time_words,
        missing=("--at", "TIME"),
    ),
    SessionAction(
        id="restart",
        key="R",
        title="restart the session",
        group=JOB,
        verb=("restart",),
        rule=allowed.has_live_job,
        danger=Danger.ENDS_PROGRAMS,
        several=True,
    ),
    SessionAction(
        id="extend",
        key="e",
        title="extend the time limit of the job",
        group=JOB,
        verb=("extend",),
        rule=allowed.has_running_job,
        make_form=forms.extend_form,
        form_words=forms.extend_words,
        missing=("TIME",),
    ),
    SessionAction(
        id="resize",
        key="Z",
        title="change the resources of the running session",
        group=JOB,
        verb=("resize",),
        rule=allowed.has_running_job,
        danger=Danger.ENDS_PROGRAMS,
        make_form=forms.resize_form,
        form_words=forms.resize_words,
        missing=("OPTION",),
    ),
    SessionAction(
        id="cancel-resize",
        key="K",
        title="cancel a resize that waits, and keep the present job",
        group=JOB,
        verb=("resize",),
        rule=allowed.can_cancel_resize,
        missing=("--cancel",),
    ),
)

_SESSION_ACTIONS = (
    SessionAction(
        id="policies",
        key="p",
        title="change the policies: connections, the job's end, idle time",
        group=POLICY,
        verb=("set",),
        make_form=forms.policies_form,
        form_words=forms.policies_words,
        missing=("--idle", "TIME"),
    ),
    SessionAction(
        id="rename",
        key="N",
        title="rename the stopped session",
        group=POLICY,
        verb=("rename",),
        rule=allowed.is_stopped,
        make_form=forms.rename_form,
        form_words=forms.rename_words,
        missing=("NEW",),
    ),
    SessionAction(
        id="delete",
        key="D",
        title="delete the stopped session",
        group=POLICY,
        verb=("delete",),
        rule=allowed.is_stopped,
        danger=Danger.CHANGES_FILES,
        several=True,
    ),
    SessionAction(
        id="purge",
        title="delete the stopped session permanently",
        group=POLICY,
        verb=("delete", "--purge"),
        rule=allowed.is_stopped,
        danger=Danger.PERMANENT,
    ),
    SessionAction(
        id="restore",
        key="U",
        title="restore a deleted session",
        group=POLICY,
        verb=("restore",),
        needs_session=False,
        make_form=forms.restore_form,
        form_words=forms.restore_words,
        missing=("NAME",),
    ),
)

_FILE_ACTIONS = (
    SessionAction(
        id="snapshot",
        key="S",
        title="take a snapshot",
        group=FILES,
        verb=("snapshot",),
        rule=allowed.can_snapshot,
        make_form=forms.snapshot_form,
        form_words=forms.snapshot_words,
    ),
    SessionAction(
        id="snapshots",
        key="t",
        title="show the tree of snapshots",
        group=FILES,
        verb=("snapshots",),
        mode=RunMode.SCREEN,
    ),
    SessionAction(
        id="rollback",
        key="b",
        title="roll back to a snapshot",
        group=FILES,
        verb=("rollback",),
        rule=allowed.can_change_volumes,
        danger=Danger.CHANGES_FILES,
        make_form=forms.rollback_form,
        form_words=forms.rollback_words,
        missing=("SNAPSHOT",),
    ),
    SessionAction(
        id="clone",
        key="c",
        title="clone the session",
        group=FILES,
        verb=("clone",),
        rule=allowed.can_clone,
        make_form=forms.clone_form,
        form_words=forms.clone_words,
        missing=("NEW",),
    ),
    SessionAction(
        id="diff",
        key="f",
        title="show changed packages and files",
        group=FILES,
        verb=("diff",),
        mode=RunMode.OUTPUT,
        make_form=forms.diff_form,
        form_words=forms.diff_words,
    ),
    SessionAction(
        id="switch",
        key="P",
        title="switch to another profile or version",
        group=FILES,
        verb=("switch",),
        rule=allowed.can_change_volumes,
        danger=Danger.CHANGES_FILES,
        make_form=forms.switch_form,
        form_words=forms.switch_words,
        missing=("PROFILE",),
    ),
    SessionAction(
        id="commit",
        key="m",
        title="commit the changes outside the home to a profile",
        group=FILES,
        verb=("profile", "commit"),
        mode=RunMode.TERMINAL,
        make_form=forms.commit_form,
        form_words=forms.commit_words,
        missing=("PROFILE@VERSION",),
    ),
    SessionAction(id="size", key="u", title="show the disk usage", group=FILES, verb=("size",), mode=RunMode.OUTPUT),
    SessionAction(
        id="verify", title="compare the layers with their checksums", group=FILES, verb=("verify",), mode=RunMode.OUTPUT
    ),
    SessionAction(
        id="flatten",
        title="merge the layers of the stopped session",
        group=FILES,
        verb=("flatten",),
        rule=allowed.is_stopped,
    ),
    SessionAction(
        id="gc", title="free unused disk space", group=FILES, verb=("gc",), mode=RunMode.OUTPUT, needs_session=False
    ),
)

_CONNECT_ACTIONS = (
    SessionAction(
        id="ssh",
        key="s",
        title="log in with ssh, and return",
        group=CONNECT,
        verb=("ssh",),
        mode=RunMode.TERMINAL,
        rule=allowed.can_connect,
    ),
    SessionAction(
        id="exec",
        key="exclamation_mark",
        title="run a command in the session",
        group=CONNECT,
        verb=("exec",),
        mode=RunMode.TERMINAL,
        rule=allowed.can_connect,
        make_form=forms.exec_form,
        form_words=forms.exec_words,
        missing=("--", "COMMAND"),
    ),
    SessionAction(
        id="open",
        key="i",
        title="show the links for IDEs",
        group=CONNECT,
        verb=("open",),
        mode=RunMode.SCREEN,
        missing=("vscode", "--print"),
    ),
    SessionAction(
        id="copy-ssh", key="y", title="copy the ssh line", group=CONNECT, verb=("show",), mode=RunMode.SCREEN
    ),
)

_LOOK_ACTIONS = (
    SessionAction(
        id="explain",
        key="w",
        title="explain why: the state, and what to do",
        group=LOOK,
        verb=("explain",),
        mode=RunMode.SCREEN,
    ),
    SessionAction(
        id="history", key="H", title="show the jobs on a timeline", group=LOOK, verb=("history",), mode=RunMode.SCREEN
    ),
    SessionAction(
        id="logs",
        key="l",
        title="follow the log of the job",
        group=LOOK,
        verb=("logs", "--follow"),
        mode=RunMode.SCREEN,
    ),
    SessionAction(id="events", key="v", title="show the events", group=LOOK, verb=("events",), mode=RunMode.SCREEN),
    SessionAction(id="who", key="W", title="show the connections", group=LOOK, verb=("who",), mode=RunMode.SCREEN),
    SessionAction(
        id="cluster",
        key="F",
        title="show the cluster: what is free, and the queue",
        group=LOOK,
        verb=("cluster",),
        mode=RunMode.SCREEN,
        needs_session=False,
    ),
)

_SHARING_ACTIONS = (
    SessionAction(
        id="share",
        key="a",
        title="share the session with a user or a group",
        group=SHARING,
        verb=("share",),
        mode=RunMode.TERMINAL,
        make_form=sharing.share_form,
        form_words=sharing.share_words,
        missing=("USER", "--role", "ROLE"),
    ),
    SessionAction(
        id="unshare",
        key="A",
        title="end what is shared with a user or a group",
        group=SHARING,
        verb=("unshare",),
        mode=RunMode.OUTPUT,
        make_form=sharing.unshare_form,
        form_words=sharing.unshare_words,
        missing=("USER",),
    ),
    SessionAction(
        id="shares",
        key="h",
        title="show with whom the session is shared, and who is in",
        group=SHARING,
        verb=("shares",),
        mode=RunMode.SCREEN,
    ),
    SessionAction(
        id="shared",
        key="M",
        title="show what others share with you",
        group=SHARING,
        verb=("list", "--shared"),
        mode=RunMode.SCREEN,
        needs_session=False,
    ),
    SessionAction(
        id="leave",
        key="L",
        title="give up your access to a session of another user",
        group=SHARING,
        verb=("leave",),
        mode=RunMode.OUTPUT,
        needs_session=False,
        make_form=sharing.leave_form,
        form_words=sharing.leave_words,
        missing=("OWNER.NAME",),
    ),
)

ACTIONS: tuple[SessionAction, ...] = (
    *_JOB_ACTIONS,
    *_CONNECT_ACTIONS,
    *_FILE_ACTIONS,
    *_SESSION_ACTIONS,
    *_SHARING_ACTIONS,
    *_LOOK_ACTIONS,
)

_BY_ID = {action.id: action for action in ACTIONS}


def find_action(action_id: str) -> SessionAction:
    """Return the action with this id; KeyError without one."""
    return _BY_ID[action_id]


OTHER_COMMANDS: dict[str, str] = {
    "list": "except with `--shared`, the list of the interface shows the same",
    "upgrade": "the action `restart` takes the version that a session is offered",
    **dict.fromkeys(("cp", "up"), "they work on files beside the user's shell"),
    "services": "a service is opened by `berth open NAME SERVICE --local`, which runs until Ctrl-C",
    "forward": "it publishes the port of a server that the user has started in a shell",
    **dict.fromkeys(("sbatch", "fetch", "promote"), "they concern batch jobs, and files beside the user's shell"),
    "profile": "except `commit`, its commands concern no session",
    **dict.fromkeys(("ssh-config", "key", "login", "logout"), "they set up an account, and concern no session"),
    "admin": "its commands concern the sessions of all users, and are for the site's operators",
    **dict.fromkeys(("doctor", "config", "registry", "ca"), "they administer the site, and concern no session"),
    **dict.fromkeys(("help", "quickstart", "version", "completion", "tui"), "they concern the programs themselves"),
    **dict.fromkeys(("portal", "browsers"), "they concern the user's browsers, and no session"),
    **dict.fromkeys(("connect", "controller", "gateway", "web"), "other programs call them"),
}
"""The commands that are no action, with the reason; ACTIONS has all others."""
