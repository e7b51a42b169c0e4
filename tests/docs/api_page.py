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
from broker.controller.api.request_limits import MAX_BODY_BYTES
from broker.controller.api.route_access import DELEGATED, DELEGATED_OPTIONS
from broker.controller.reconcile.observed_slurm import PLACE_INTERVAL_S
from broker.controller.sessions.watch import FEED_TTL_S
from broker.schema import (
    admin,
    base,
    checks,
    cluster,
    connections,
    environments,
    grants,
    login,
    oidc,
    profiles,
    services,
    sessions,
    site,
    volumes,
    web,
)
from broker.schema.watch import CHANGE_EVENT, EVENT_STREAM, HEARTBEAT_HEADER, SNAPSHOT_EVENT, WATCH_PATH
from broker.schema.web import DELEGATION_HEADER
from tests.docs.fields import default, descriptions, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = (
    admin,
    base,
    checks,
    cluster,
    connections,
    environments,
    grants,
    login,
    oidc,
    profiles,
    services,
    sessions,
    site,
    volumes,
    web,
)

_HEAD = f"""\
# API

`make docs` generates this page from the program. [openapi.json](openapi.json) is the same for programs; a controller
serves its own at `/openapi.json`.

The API is HTTP/1.1 and JSON on the Unix socket `api.sock` in [`runtime_dir`](config.md#runtime_dir). There is no login:
the kernel identifies the caller by the socket's other end (`SO_PEERCRED`), and a call concerns the caller's own
sessions, or with `OWNER.NAME` one that [its owner shares](../howto/sharing.md). Calls below
`/v1/admin` are for [operators](../howto/operators.md) of the site. Every local account may call:

```console
$ curl --unix-socket /run/berth/api.sock http://berth/v1/sessions
```

`GET {WATCH_PATH}` streams changes instead of an answer with an end: see [Watching](#watching).

Times are seconds since the epoch. A body has at most {MAX_BODY_BYTES // 1024} KiB and a declared length; unknown fields
are errors. One user may have {CONNECTIONS} connections at once. The answer to a call that changes a session is 202, as
soon as the intent is recorded; `GET /v1/sessions/{{name}}?after=REVISION&wait=SECONDS` follows its progress.

## Watching

`GET {WATCH_PATH}` with `Accept: {EVENT_STREAM}` is a stream of Server-Sent Events. Without that header the path is
the session named `watch`.

```console
$ curl -N -H 'Accept: {EVENT_STREAM}' --unix-socket /run/berth/api.sock http://berth{WATCH_PATH}
```

| event | data |
|---|---|
| `{SNAPSHOT_EVENT}` | `{{"revision": TEXT, "sessions": [SessionView...]}}`: all sessions of the caller |
| `{CHANGE_EVENT}` | `{{"revision": TEXT, "changed": [SessionView...], "removed": [ID...]}}` |

- The first event is a snapshot, unless the stream resumes. A snapshot replaces what the client knows. `changed` has
  changed and new sessions, `removed` the ids of deleted ones.
- A client resumes with the revision of the last event that it has read, as `since` or as the header `Last-Event-ID`.
  The revision is also the `id` of the event. A client must not interpret it. A revision of another process of the
  controller, or of more than {FEED_TTL_S:g} s without a stream, leads to a snapshot.
- Several changes of one session are merged. A client that reads slowly gets the newest record of each session, never a
  queue of old ones.
- After [`watch.heartbeat`](config.md#watchheartbeat) seconds without an event there is a comment. The header
  `{HEARTBEAT_HEADER}` has the number of seconds. A client gives up after three of them without a byte.
- A place in the queue (`ahead`, `expected_start_at`) is no revision of a session. A stream has it at most
  {PLACE_INTERVAL_S:g} s late. Nor are `clients`, which a stream has at once. `used_at` and `idle_since` are as of the
  session's last change.
- The stream ends when the controller stops, and if the registry cannot be read.
- A user may have [`watch.max_user_streams`](config.md#watchmax_user_streams) streams; another one is refused with 429.

## Browsers

Requests of the account [`web.account`](config.md#webaccount) with the header `{DELEGATION_HEADER}` are for the
logged-in browser that has this secret, and act as its user. Only the calls that are marked *browsers may call it*
accept them. `start` and `switch` then take no `persistence`. `start` and `check` then take only these options of
sbatch: {", ".join(f"`--{name}`" for name in sorted(DELEGATED_OPTIONS))}. A login that has ended is answered with 401,
and so is one whose user no longer has an account. The header of another account is answered with 403. Without the
header, that account may send only the calls that say so.

## Failures

Every answer that is not listed below has an [ErrorBody](#errorbody): `message` and `hint` are for people, `reason` is
for programs. Its most common values:

| status | reason | meaning |
|---|---|---|
| 500 | `{errors.BerthError.reason}` | A fault of the controller, or of a part that it depends on. |
"""

_MEANINGS = {
    "GET /v1/sessions": "The caller's own sessions.",
    f"GET {WATCH_PATH}": "A stream of the caller's sessions and their changes: see [Watching](#watching).",
    "GET /v1/sessions/{name}": "One session. With `after`, wait for a higher revision, at most `wait` seconds.",
    "DELETE /v1/sessions/{name}": "Delete a session without a job; with `purge`, `restore` is not possible.",
    "GET /v1/admin/sessions": "Sessions of all users, or of one, or those with a job on a node. For operators only.",
    "POST /v1/admin/sessions/{name}/stop": "Stop any user's session, `OWNER.NAME`. For operators only.",
    "POST /v1/admin/sessions/{name}/extend": "Extend the job of any user's session. For operators only.",
    "POST /v1/admin/sessions/{name}/message": "Write a line to the terminals of any session. For operators only.",
    "POST /v1/admin/nodes/{node}/drain": "Stop all sessions with a job on the node. For operators only.",
    "POST /v1/admin/nodes/{node}/message": "Write to the terminals of all sessions on the node. For operators only.",
    "GET /v1/admin/users/{owner}/limits": "The limits of a user, and how much of each is used. For operators only.",
    "GET /v1/admin/events": "The newest events of the sessions of all users. For operators only.",
    "POST /v1/sessions/{name}/start": "Start a session; create it if it does not exist.",
    "PUT /v1/sessions/{name}/idle": "Set the time after which the idle session is stopped.",
    "PUT /v1/sessions/{name}/continuation": "Set the policy for the continuation in another job.",
    "PUT /v1/sessions/{name}/follow": "Set the channel or version of its profile that the session follows.",
    "PUT /v1/sessions/{name}/stop-time": "Set the stop time, and if the session continues until then.",
    "POST /v1/sessions/{name}/resize": "Continue a ready session in a job with other resources.",
    "DELETE /v1/sessions/{name}/resize": "Withdraw a resize that waits: the session keeps its present job.",
    "POST /v1/sessions/{name}/check": "Check a request without carrying it out; its refusal is the answer.",
    "POST /v1/sessions/{name}/rename": "Rename a session without a job; the result has the new name.",
    "POST /v1/sessions/{name}/extend": "Give the session's job more time, if Slurm and the site allow it.",
    "GET /v1/grants": "The grants on all sessions of the caller, also expired ones.",
    "GET /v1/sessions/{name}/grants": "The grants on one session, also expired ones.",
    "PUT /v1/sessions/{name}/grants/{grantee}": "Grant a role in place of the grantee's earlier one, a service or a "
    "snapshot.",
    "DELETE /v1/sessions/{name}/grants/{grantee}": "Revoke all grants to a grantee, or that of a snapshot or service.",
    "GET /v1/shared": "The sessions, snapshots and services that others share with the caller.",
    "GET /v1/shared/services": "The services of others' sessions that the caller may open in a browser.",
    "DELETE /v1/shared/{name}": "Give up the caller's own grants on `OWNER.NAME`, or that of a snapshot or service.",
    "GET /v1/sessions/{name}/jobs": "Every job of the session, the last one first.",
    "PATCH /v1/sessions/{name}/connecting": "Set what a connection does; fields that the body omits keep their value.",
    "POST /v1/sessions/{name}/stop": "End a session's job; its data stays.",
    "POST /v1/sessions/{name}/snapshots": "Take a snapshot of home and system, of a running session too.",
    "GET /v1/sessions/{name}/snapshots": "The session's snapshots, oldest first.",
    "GET /v1/sessions/{name}/snapshots/{reference}/shared": "What others would get of it, and what is left out.",
    "DELETE /v1/sessions/{name}/snapshots/{reference}": "Delete a snapshot, by its number or label.",
    "POST /v1/sessions/{name}/rollback": "Restore home, system and image of a snapshot; a running session restarts.",
    "POST /v1/sessions/{name}/switch": "Move the session to another image with its home; a running one restarts.",
    "POST /v1/sessions/{name}/upgrade": "Take the version that the session follows; a running one restarts.",
    "POST /v1/sessions/{name}/clone": "Create a session with the files of this one, now or in a snapshot.",
    "GET /v1/sessions/{name}/diff": "Changes since the snapshot `from`, or since the profile. "
    "With `content=true` files that look the same are read.",
    "GET /v1/sessions/{name}/size": "Disk space of the session. The first call may take minutes.",
    "POST /v1/sessions/{name}/verify": "Read every layer and compare it with its checksums. It may take an hour.",
    "POST /v1/sessions/{name}/restart": "Stop a session and start it again, in the same job if possible. This ends "
    "root mode. Refused without a job.",
    "POST /v1/sessions/{name}/flatten": "Begin to join layers, in the background; the answer does not wait for it.",
    "POST /v1/sessions/{name}/root": "Start the session in root mode; stop it first if it runs. A stop ends root mode.",
    "POST /v1/sessions/{name}/root/commit": "Keep the changes of root mode.",
    "GET /v1/deleted": "The caller's deleted sessions that can be restored.",
    "POST /v1/deleted/{name}/restore": "Restore the last deleted session of that name, stopped.",
    "GET /v1/environments": "The environments of the caller's batch jobs, and which jobs have begun in them.",
    "POST /v1/environments": "Make an environment for a batch job from a session, as it is now, or from a profile.",
    "DELETE /v1/environments/{environment}": "Remove an environment without a running job.",
    "POST /v1/environments/{environment}/promote": "Make a session from the files of a job in its environment.",
    "POST /v1/gc": "Remove layers without a reference by the caller, and deleted sessions after their grace time.",
    "GET /v1/sessions/{name}/log": "The last bytes of the log of the session's jobs.",
    "GET /v1/sessions/{name}/events": "The session's events, newest last.",
    "GET /v1/events": "The events of all of the caller's sessions, newest last.",
    "GET /v1/sessions/{name}/connections": "Present connections; with `ended`, all recorded past ones too.",
    "POST /v1/connections": "Report connections: the caller's own, or of any user from the gateway's account.",
    "POST /v1/resolve": "The endpoint of a session, for a connection. A refusal has a message for the terminal.",
    "GET /v1/keys": "The public keys that open the caller's sessions.",
    "POST /v1/keys": "Add a public key.",
    "DELETE /v1/keys/{fingerprint}": "Remove an added key.",
    "GET /v1/certificates": "The caller's certificates that are not expired, revoked ones too.",
    "POST /v1/certificates": "A certificate for one of the caller's keys. A revoked key becomes valid again.",
    "DELETE /v1/certificates": "Revoke the caller's certificates for one key, or all; the answer lists them.",
    "GET /v1/ca": "The trusted keys of the authorities, for hosts, users and web access.",
    "POST /v1/ca/{kind}/rotate": "Announce the next key, or begin to sign with it. Root and the service account only.",
    "POST /v1/ca/{kind}/retire": "Stop trusting a key. Root and the service account only.",
    "GET /v1/gateway/keys/{user}": "The keys that open a user's sessions. The gateway's account only.",
    "POST /v1/gateway/guests": "Report the guests whom a worker of a gateway has connected, and wait until the access "
    "of one ends. The gateway's account only.",
    "POST /v1/gateway/wait": "Wait until one of these sessions has another revision. The gateway's account only.",
    "POST /v1/gateway/certificate": "A certificate for the gateway's host key. The gateway's account only.",
    "POST /v1/web/links": "A link that logs one browser in as the caller, and its code. Refused to browsers.",
    "GET /v1/web/browsers": "The caller's logged-in browsers, oldest first.",
    "DELETE /v1/web/browsers": "Log all of the caller's browsers out; answers when their connections are closed.",
    "DELETE /v1/web/browsers/{browser}": "Log one browser out, likewise.",
    "DELETE /v1/web/delegation": "Log out the browser for which the request is.",
    "POST /v1/web/visits": "Let the browser for which the request is use a service, until its login ends.",
    "POST /v1/web/watches": "Have the changes of the sessions that the browser may see in one of berth-web's streams, "
    "until its login ends.",
    "POST /v1/web/streams": "A stream of Server-Sent Events as of [watching](#watching) for all browsers whose watches "
    "name it: each event has the watch's id as `watch`, and `ended` says that a watch has ended. Only berth-web's "
    "account may send it.",
    "DELETE /v1/web/watches/{watch}": "End a watch. Only berth-web's account may send it.",
    "POST /v1/web/links/check": "Whose login a link or its code is; it can still be used. Only berth-web's account may "
    "send it.",
    "POST /v1/web/delegations": "Exchange a link or its code, once, for the login of a browser. Only berth-web's "
    "account may send it.",
    "POST /v1/web/provider/logins": "Begin the login of a browser at the OpenID provider. Only berth-web's account "
    "may send it.",
    "POST /v1/web/provider/delegations": (
        "Exchange the provider's answer, once, for the login of a browser. Only berth-web's account may send it."
    ),
    "POST /v1/web/provider/logout": (
        "End the logins that a logout token of the provider names, and close their connections. Only berth-web's "
        "account may send it."
    ),
    "POST /v1/web/door": "The endpoint of a visited session, and a certificate of some minutes. Only berth-web's "
    "account may send it.",
    "POST /v1/web/visits/check": "Those of these visits that are valid. Only berth-web's account may send it.",
    "GET /v1/health": "A sign that the controller answers, and its version.",
    "GET /v1/site": "The data that a client needs in order to reach sessions.",
    "GET /v1/profiles": "The profiles that the caller can start: all versions of the site's, and the newest of the "
    "caller's own.",
    "GET /v1/sessions/{name}/services": "The services that the profile of the session's image declares.",
    "GET /v1/cluster": "Nodes, partitions and queue, as Slurm shows them to the caller; at most `refresh_s` old, or "
    "`stale`.",
    "GET /v1/doctor": "The controller's checks of itself and its environment.",
    "POST /v1/rebuild": "Restore sessions from their manifests. Root and the service account only.",
}
"""The meaning of each call, which the types do not have. A call that is not here has no page."""


_FAILURES: tuple[type[errors.BerthError], ...] = (
    errors.InvalidInputError,
    errors.RefusedError,
    errors.LoggedOutError,
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
    lines += ["- browsers may call it"] if (method, path) in DELEGATED else []
    return "\n" + "\n".join(lines) + "\n"


def _parameter(parameter: dict[str, Any]) -> str:
    value = parameter["schema"]
    otherwise = f", default {default(value['default'])}" if "default" in value else ""
    return f"- `{parameter['name']}` ({parameter['in']}): {_shape(value)}{otherwise}"


def _content(part: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = part["content"]
    found: dict[str, Any] = next(iter(kinds.values()))["schema"]
    return found


def _shape(value: dict[str, Any]) -> str:
    """Return the type of a value in words, with a link to it."""
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
