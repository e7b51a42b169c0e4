"""docs/reference/api.md and openapi.json, from the application itself; making its document calls nothing behind it."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any, cast

from broker import errors
from broker.config.settings import Config
from broker.controller.api.app import application
from broker.controller.api.dependencies import Services
from broker.controller.api.listener import CONNECTIONS
from broker.controller.api.request_limits import LARGEST_BODY
from broker.schema import base, connections, environments, login, sessions, site, volumes
from tests.docs.fields import default, descriptions, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = (base, connections, environments, login, sessions, site, volumes)

_HEAD = f"""\
# API

Made from the program by `make docs`. [openapi.json](openapi.json) is the same for programs; a controller gives its own
at `/openapi.json`.

It is HTTP/1.1 and JSON on the Unix socket `api.sock` in [`runtime_dir`](config.md#runtime_dir). Nobody logs in: who
calls is what the kernel says of the socket's other end (`SO_PEERCRED`), and calls are about the caller's own. Any local
account may ask:

```console
$ curl --unix-socket /run/berth/api.sock http://berth/v1/sessions
```

Times are seconds since the epoch. A body has at most {LARGEST_BODY // 1024} KiB and tells its length; unknown fields
are errors. One user may have {CONNECTIONS} connections at once. A call that changes a session is answered with 202 when
the intent is recorded; what comes of it is seen with `GET /v1/sessions/{{name}}?after=REVISION&wait=SECONDS`.

## Failures

Every other answer than those below has an [ErrorBody](#errorbody): `message` and `hint` are for people, `reason` is for
programs. Its commonest values:

| status | reason | meaning |
|---|---|---|
| 500 | `{errors.BerthError.reason}` | A fault of the controller, or of what it works with. |
"""

_MEANINGS = {
    "GET /v1/sessions": "The caller's own sessions.",
    "GET /v1/sessions/{name}": "One session; with `after`, once its revision is above that, or after `wait` seconds.",
    "DELETE /v1/sessions/{name}": "Delete a session that has no job; with `purge` nothing is kept for `restore`.",
    "POST /v1/sessions/{name}/start": "Start a session; it is made if there is none of that name.",
    "PUT /v1/sessions/{name}/idle": "Decide after which time without use the session is stopped.",
    "PUT /v1/sessions/{name}/continuation": "Decide whether the session goes on when its job has to end.",
    "PUT /v1/sessions/{name}/stop-time": "Decide when the session is to be stopped, and whether it stays until then.",
    "POST /v1/sessions/{name}/resize": "Have a ready session go on in a job with other resources.",
    "POST /v1/sessions/{name}/extend": "Give the session's job more time, where Slurm and the site allow it.",
    "GET /v1/sessions/{name}/jobs": "Every job that was asked for to carry the session, the last one first.",
    "PATCH /v1/sessions/{name}/connecting": "Decide what connecting does; what the body does not name stays.",
    "POST /v1/sessions/{name}/stop": "End a session's job; its data stays.",
    "POST /v1/sessions/{name}/snapshots": "Keep home and system as they are now, of a running session too.",
    "GET /v1/sessions/{name}/snapshots": "The session's snapshots, oldest first.",
    "DELETE /v1/sessions/{name}/snapshots/{reference}": "Delete a snapshot, by its number or label.",
    "POST /v1/sessions/{name}/rollback": "Make home, system and image what they were; a running session is restarted.",
    "POST /v1/sessions/{name}/switch": "Put the session on another image with its home; a running one is restarted.",
    "POST /v1/sessions/{name}/clone": "Make a session that begins as this one is, or was in a snapshot.",
    "GET /v1/sessions/{name}/diff": "What has changed since the snapshot `from`, or over the profile; "
    "with `content=true` files that look the same are read.",
    "GET /v1/sessions/{name}/size": "What the session's data takes. The first call counts every file, for minutes.",
    "POST /v1/sessions/{name}/verify": "Read every layer and compare it with its checksums. It may take an hour.",
    "POST /v1/sessions/{name}/flatten": "Begin to make few layers of many, in the background; nothing waits for it.",
    "POST /v1/sessions/{name}/root": "Start the session in root mode; stop it first if it runs. A stop ends root mode.",
    "POST /v1/sessions/{name}/root/commit": "Keep what was changed in root mode.",
    "GET /v1/deleted": "The caller's deleted sessions that can be restored.",
    "POST /v1/deleted/{name}/restore": "Bring back the session of that name that was deleted last, stopped.",
    "GET /v1/environments": "The environments of the caller's batch jobs, and which jobs have begun in them.",
    "POST /v1/environments": "Make an environment for a batch job, of a session as it is now or of a profile.",
    "DELETE /v1/environments/{environment}": "Remove an environment in which nothing runs.",
    "POST /v1/environments/{environment}/promote": "Make a session of what a job has left in its environment.",
    "POST /v1/gc": "Remove layers that nothing of the caller's names, and deleted sessions whose grace is over.",
    "GET /v1/sessions/{name}/log": "The last bytes of the log of the session's jobs.",
    "GET /v1/sessions/{name}/events": "What happened to the session, newest last.",
    "GET /v1/events": "What happened to all of the caller's sessions, newest last.",
    "GET /v1/sessions/{name}/connections": "Who is connected; with `ended`, all that is remembered of who was.",
    "POST /v1/connections": "News of connections: of the caller's own, or of anybody's from the gateway's account.",
    "POST /v1/resolve": "Where a session listens, for a connection. The message of a refusal is fit for the terminal.",
    "GET /v1/keys": "The public keys that open the caller's sessions.",
    "POST /v1/keys": "Add a public key.",
    "DELETE /v1/keys/{fingerprint}": "Remove a key that was added here.",
    "GET /v1/certificates": "The caller's certificates that have not ended, revoked ones too.",
    "POST /v1/certificates": "A certificate that lets the caller in with a key of theirs. A revoked key is good again.",
    "DELETE /v1/certificates": "Revoke the caller's certificates for one key, or all; the answer has those that were.",
    "GET /v1/ca": "The keys of the authorities, for hosts and users, whose certificates are believed.",
    "POST /v1/ca/{kind}/rotate": "Announce the next key, or have it sign. Root and the service account only.",
    "POST /v1/ca/{kind}/retire": "Have a key believed no more. Root and the service account only.",
    "GET /v1/gateway/keys/{user}": "The keys that let a user in. The gateway's account only.",
    "POST /v1/gateway/wait": "Wait until one of these sessions has another revision. The gateway's account only.",
    "POST /v1/gateway/certificate": "A certificate for the gateway's host key. The gateway's account only.",
    "GET /v1/health": "Whether the controller answers, and its version.",
    "GET /v1/site": "What a client needs in order to reach sessions.",
    "GET /v1/doctor": "What the controller finds right and wrong with itself and its surroundings.",
    "POST /v1/rebuild": "Bring sessions back from their manifests. Root and the service account only.",
}
"""What the types do not tell; a call that is not here has no page."""


_FAILURES: tuple[type[errors.BerthError], ...] = (
    errors.InvalidInputError,
    errors.RefusedError,
    errors.NotFoundError,
    errors.ConflictError,
    errors.SlurmUnavailableError,
    errors.NoSpaceError,
)
"""Those that the controller answers with; the others of broker.errors are about reaching it."""


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI document of a controller."""
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Services)), cast("Any", None))
    return application(Services(**nothing | {"config": Config()})).openapi()


def document_text() -> str:
    return json.dumps(document(), indent=1, sort_keys=True) + "\n"


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every call: its method, its path and its part of the document."""
    for path, methods in document()["paths"].items():
        for method, call in methods.items():
            yield method.upper(), path, call


def page() -> str:
    rows = [f"| {error.status} | `{error.reason}` | {error.__doc__} |\n" for error in _FAILURES]
    return "".join([_HEAD, *rows, "\n## Calls\n", *map(_call, *zip(*calls(), strict=True)), "\n## Types\n", *_types()])


def _call(method: str, path: str, call: dict[str, Any]) -> str:
    lines = [f"### {method} {path}", "", _MEANINGS[f"{method} {path}"], ""]
    lines += [_parameter(each) for each in call.get("parameters", [])]
    if "requestBody" in call:
        lines.append(f"- body: {_shape(_content(call['requestBody']))}")
    lines += [f"- {status}: {_shape(_content(answer))}" for status, answer in call["responses"].items() if status < "3"]
    return "\n" + "\n".join(lines) + "\n"


def _parameter(parameter: dict[str, Any]) -> str:
    value = parameter["schema"]
    otherwise = f", default {default(value['default'])}" if "default" in value else ""
    return f"- `{parameter['name']}` ({parameter['in']}): {_shape(value)}{otherwise}"


def _content(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = part["content"]["application/json"]["schema"]
    return found


def _shape(value: dict[str, Any]) -> str:
    """What a value is, with a link to its type."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_shape(each) for each in value["anyOf"])
    if value["type"] == "array":
        return f"list of {_shape(value['items'])}"
    if value["type"] == "object":
        return f"object of {_shape(value['additionalProperties'])}s"
    return "null" if value["type"] == "null" else kind(value)


def _types() -> Iterator[str]:
    for name, described in sorted(document()["components"]["schemas"].items()):
        said = described.get("description", "")
        yield f"\n### {name}\n\n" + (f"{said}\n\n" if said else "")
        if "enum" in described:
            yield kind(described).capitalize() + ".\n"
            continue
        words = descriptions(next(getattr(each, name) for each in SCHEMAS if hasattr(each, name)))
        required = described.get("required", [])
        yield "| field | type | |\n|---|---|---|\n"
        for field, value in described["properties"].items():
            otherwise = f"; default: {default(value.get('default'))}" if field not in required else ""
            yield f"| `{field}` | {_shape(value)}{otherwise} | {' '.join(words.get(field, '').split())} |\n"
