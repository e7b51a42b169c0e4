"""The routes that a logged-in browser may call, by its delegation, and those of berth-web alone.

All others need a user's own process. A route that is in neither table is refused to berth-web.
"""

from __future__ import annotations

DELEGATED = frozenset(
    {
        ("GET", "/v1/site"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/profiles"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/{name}"),
        ("GET", "/v1/sessions/{name}/jobs"),
        ("GET", "/v1/sessions/{name}/log"),
        ("GET", "/v1/sessions/{name}/events"),
        ("GET", "/v1/sessions/{name}/connections"),
        ("GET", "/v1/sessions/{name}/snapshots"),
        ("GET", "/v1/sessions/{name}/services"),
        ("GET", "/v1/events"),
        ("GET", "/v1/shared/services"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/sessions/{name}/check"),
        ("POST", "/v1/sessions/{name}/start"),
        ("POST", "/v1/sessions/{name}/stop"),
        ("POST", "/v1/sessions/{name}/restart"),
        ("POST", "/v1/sessions/{name}/extend"),
        ("POST", "/v1/sessions/{name}/snapshots"),
        ("POST", "/v1/sessions/{name}/rollback"),
        ("POST", "/v1/sessions/{name}/clone"),
        ("POST", "/v1/sessions/{name}/switch"),
        ("GET", "/v1/web/browsers"),
        ("DELETE", "/v1/web/browsers"),
        ("DELETE", "/v1/web/browsers/{browser}"),
        ("DELETE", "/v1/web/delegation"),
        ("POST", "/v1/web/visits"),
        ("POST", "/v1/web/watches"),
    }
)
"""Method and path of the routes that a delegation covers. A new route is not among them: keys, policies, deletion and
other logins need a fresh proof of the user.
"""

DELEGATED_OPTIONS = frozenset({"mem", "cpus-per-task", "gres", "time", "partition", "account", "qos"})
"""The options of sbatch that a browser may set: the size of a job and the queue that it waits in. All others keep the
value of the session, the profile or the site.
"""

BERTH_WEB = frozenset(
    {
        ("POST", "/v1/web/links/check"),
        ("POST", "/v1/web/delegations"),
        ("POST", "/v1/web/provider/logins"),
        ("POST", "/v1/web/provider/delegations"),
        ("POST", "/v1/web/provider/logout"),
        ("POST", "/v1/web/door"),
        ("POST", "/v1/web/visits/check"),
        ("POST", "/v1/web/streams"),
        ("DELETE", "/v1/web/watches/{watch}"),
    }
)
"""Routes that only berth-web calls, without a delegation: the request itself has a proof, or has no secret in it. A
stream has the changes of those browsers only whose watches were opened with their delegations.
"""
