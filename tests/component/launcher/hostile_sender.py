"""A launcher whose sender of snapshots is hostile: as the snapshot's owner, it sends what a file has.

The file is `stream`, beside the users' storage.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from broker.launcher import server, verbs
from broker.launcher.sharing_arguments import SendArguments

if TYPE_CHECKING:
    from broker.launcher.argument_types import Arguments
    from broker.launcher.request import RequestContext


def _send(context: RequestContext, arguments: Arguments) -> dict[str, Any]:
    del arguments
    with os.fdopen(context.stream, "wb") as pipe:
        pipe.write((context.root.parent / "stream").read_bytes())
    return {}


if __name__ == "__main__":
    verbs._HANDLERS[SendArguments] = _send
    raise SystemExit(server.main())
