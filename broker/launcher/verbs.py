"""The table of all verbs of the launcher, with their functions.

The root process loads this module and runs no verb as root: no third-party package is imported (pyproject.toml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.launcher import session_verbs
from broker.launcher.arguments import (
    BeginArguments,
    CloneArguments,
    EnvironmentArguments,
    EstimateArguments,
    HoldArguments,
    InstallArguments,
    KeysArguments,
    ListedServicesArguments,
    LogArguments,
    ManifestsArguments,
    OwnImageArguments,
    PrepareArguments,
    PromoteArguments,
    RenewArguments,
    SubmitArguments,
    TerminalsArguments,
    UntrashArguments,
)
from broker.launcher.image_verbs import own_image
from broker.launcher.read_verbs import listed_services, log, manifests, terminals
from broker.launcher.sharing_arguments import ReceiveArguments
from broker.launcher.volume_verbs import VOLUME_VERBS, change_volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.launcher.argument_types import Arguments
    from broker.launcher.request import RequestContext

_HANDLERS: dict[type[Arguments], Callable[[RequestContext, Any], dict[str, Any]]] = {
    **dict.fromkeys(VOLUME_VERBS.values(), change_volumes),
    PrepareArguments: session_verbs.prepare,
    CloneArguments: session_verbs.clone_session,
    EnvironmentArguments: session_verbs.environment,
    PromoteArguments: session_verbs.promote,
    ReceiveArguments: session_verbs.receive,
    UntrashArguments: session_verbs.untrash,
    RenewArguments: session_verbs.renew,
    InstallArguments: session_verbs.install,
    SubmitArguments: session_verbs.submit,
    EstimateArguments: session_verbs.estimate,
    HoldArguments: session_verbs.hold,
    BeginArguments: session_verbs.begin_run,
    KeysArguments: session_verbs.keys,
    LogArguments: log,
    TerminalsArguments: terminals,
    ListedServicesArguments: listed_services,
    ManifestsArguments: manifests,
    OwnImageArguments: own_image,
}


def _verb(kind: type[Arguments]) -> Callable[[RequestContext, Mapping[str, Any]], dict[str, Any]]:
    return lambda context, request: _HANDLERS[kind](context, kind.parse(request))


VERBS = {kind.VERB: _verb(kind) for kind in _HANDLERS}
"""By name; each validates its request first. VerbError if it fails."""
