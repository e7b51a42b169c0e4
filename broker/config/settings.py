"""The site's settings: read once from one YAML file, and validated before anything starts.

Site mode reads `/etc/berth/config.yaml` (or `$BERTH_CONFIG`). Where that file does not exist, Berth runs in personal
mode with defaults below the user's XDG folders, and `$XDG_CONFIG_HOME/berth/config.yaml` may change them.
docs/reference/config.md has a heading for every setting; a test keeps it so.
"""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from broker.config.file import (
    ANSWER_TIMEOUT_S,
    MAX_ANSWER_TIMEOUT_S,
    MIN_ANSWER_TIMEOUT_S,
    RUNTIME_DIR,
    SOCKET_NAME,
    Mode,
    read_config,
)
from broker.errors import InvalidInputError
from broker.schema.sessions import MAX_CONNECT_WAIT_S, Continuation, IdleTime
from broker.ssh.keys import PublicKey
from broker.ssh.max_startups import MaxStartups
from slurm.sbatch import check_options


def _absolute(path: Path) -> Path:
    expanded = path.expanduser()
    if not expanded.is_absolute():
        raise ValueError("must be an absolute path")
    return expanded


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(gt=0)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")]


def parse_host_and_port(listen: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT`; an IPv6 address stands in brackets. ValueError if it is not that."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", listen)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9418")
    return found[1].strip("[]"), int(found[2])


def _listen(text: str) -> str:
    parse_host_and_port(text)
    return text


Listen = Annotated[str, AfterValidator(_listen)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageSettings(Section):
    """Where sessions live on the shared file system."""

    root: str = "~/.local/share/berth"
    """A template for one user's directory, such as `/shared/berth/{user}`; a leading `~` is that user's home."""
    binds: list[str] = []
    """What a profile may bind from the shared file system: absolute path prefixes; `:ro` allows reading only."""
    driver: Literal["auto", "overlay", "reflink", "plain"] = "auto"
    """How new sessions' volumes are kept; `auto` probes the file system: see docs/reference/storage.md."""
    submission_directory: bool = True
    """Whether a job of `berth sbatch --env` sees where it was submitted from, and the directory of `--chdir`, in the
    same place and writable; a profile's `submission_directory` can only take it away."""
    deleted_grace: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """How long the data of a deleted session is kept, so that `berth restore` brings it back."""
    batch_grace: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """How long what a job of `berth sbatch --env` has left is kept after its end, for `berth fetch` and `promote`."""
    flatten_at: Annotated[int, Field(ge=2, le=50)] = 20
    """Of how many layers a stopped session's home or system may consist before they are made fewer in the background;
    a start mounts every one of them."""
    save_every: Annotated[int, Field(ge=1, le=9_999_999)] = 600
    """Seconds between two saves of what a running session has changed outside of its home, where that is on the node's
    disk (docs/reference/storage.md). A save without changes is left out."""

    @model_validator(mode="after")
    def _one_directory_a_user(self) -> StorageSettings:
        if not (self.root.startswith("~/") or (self.root.startswith("/") and "{user}" in self.root)):
            raise ValueError("storage.root must start with ~/ or be absolute and contain {user}")
        for bind in self.binds:
            if not bind.startswith("/") or ":" in bind.removesuffix(":ro"):
                raise ValueError(f"{bind!r} is not an absolute path, or one followed by :ro")
        return self


class ProfileSettings(Section):
    """Where images are."""

    stores: list[AbsolutePath] = []
    """Directories with built profiles, searched in this order; the first is where `berth profile build` publishes."""


class SlurmSettings(Section):
    """How Slurm is asked, and how long its silence is borne."""

    backend: Literal["auto", "pyslurm", "commands"] = "auto"
    """`pyslurm`, or Slurm's own `commands`; `auto` takes pyslurm if it imports and answers."""
    query_timeout: Seconds = 30.0
    """A query without an answer is given up after this."""
    submit_timeout: Seconds = 30.0
    """sbatch is given up after this; the job may be queued all the same, and is then found by its name."""
    submit_grace: Seconds = 60.0
    """How long a job whose submission got no clear answer may take to show up before it is submitted again."""
    lost_grace: Seconds = 360.0
    """How long a known job must be missing from slurmctld, without a word from slurmdbd, before it counts as lost.
    At least slurm.conf's MinJobAge plus the clocks' skew."""
    continuation: Continuation = "12h"
    """Whether a session goes on in another job when one has to end, unless its profile or owner says otherwise:
    `always`, `never`, or while it was used within the time before, such as `12h`."""
    idle: IdleTime = "never"
    """After which time without use a session is stopped, unless its profile or owner says otherwise: a time such as
    `8h`, or `never`. Use is work of its processors or its GPU, typing in its terminals, and traffic of its connections.
    """
    successor_lead: Seconds = 600.0
    """How long before the end of a job's time the one that is to follow is asked for; half of a shorter time."""
    longest_job: Seconds | None = None
    """How long a job may run in all after its owner has extended it (`berth extend`), as far as its partition lets it;
    default: it is not extended. The service account must be a Slurm operator."""
    options: list[str] = []
    """sbatch options that every session gets unless profile or user says otherwise, as `--name=value`."""

    @field_validator("options")
    @classmethod
    def _that_sessions_may_use(cls, options: list[str]) -> list[str]:
        check_options(options)
        return options


class SshSettings(Section):
    """Names and host certificates of sessions."""

    domain: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,38}$")] = "berth"
    """The suffix of session host names: `ssh dev.berth`."""
    login_host: HostName | None = None
    """The login node as people's ssh reaches it; default: this host's name."""
    start_on_connect: bool = True
    """Whether connecting to a stopped session starts it; `berth set` decides otherwise for one session."""
    connect_wait: Annotated[float, Field(ge=0, le=MAX_CONNECT_WAIT_S)] = 12.0
    """How long a connection waits for a session that is on its way, before it is told how far that is. IDEs give up
    by themselves after 15 s, without a word of why."""
    answer_timeout: Annotated[float, Field(ge=MIN_ANSWER_TIMEOUT_S, le=MAX_ANSWER_TIMEOUT_S)] = ANSWER_TIMEOUT_S
    """Seconds for a session's node to accept a connection, and then for the session's sshd to prove that it is the
    session's own. After that the connection is refused: the session does not answer. The gateway and `berth connect`
    wait this long; 10 s are enough for three repetitions of a lost packet."""
    login_with: Literal["keys", "certificates", "both"] = "keys"
    """What opens gateway and sessions: people's keys, or certificates, for sites that want no key to do so by itself.
    `berth login` gives one; those of user_ca_keys are accepted as well."""
    user_ca_keys: list[Annotated[str, AfterValidator(lambda line: PublicKey.parse(line).line)]] = []
    """The site's own authorities, a public key each: their certificates let in whom they name."""
    user_certificate_hours: Annotated[float, Field(gt=0, le=24 * 31)] = 16.0
    """How many hours a certificate of `berth login` is valid at most."""
    ca_overlap_days: Annotated[float, Field(ge=0, le=365)] = 14.0
    """How many days the next key of the authority for hosts is announced before it may sign: by then every client must
    have fetched it with `berth ssh-config`."""
    host_certificate_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long a session's host certificate is valid; signed anew at each start. At least the longest job."""


class GatewayConfig(Section):
    """The process that people's ssh goes through."""

    enabled: bool = True
    """Whether the site runs one. Without it people come in through the login node's sshd, as in personal mode."""
    listen_host: str = "0.0.0.0"  # noqa: S104 - people reach the gateway from other machines; this is its purpose
    """The address to listen on."""
    listen_port: Annotated[int, Field(ge=1, le=65535)] = 2222
    """The TCP port to listen on."""
    host: HostName | None = None
    """The gateway as people's ssh reaches it; default: ssh.login_host. It must not lie below ssh.domain."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port as people's ssh reaches it; default: listen_port."""
    account: str = "berth-gateway"
    """The only account that may ask for other people's keys and endpoints."""
    host_key: AbsolutePath = Path("/var/lib/berth-gateway/ssh_host_ed25519_key")
    """The gateway's host key, made at first start; the directory is the gateway account's own."""
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes that serve the port; default: one for each processor, at most 4."""
    metrics_listen: Listen | None = None
    """Where Prometheus finds what the gateway counts, such as `127.0.0.1:9418`; default: nowhere."""
    max_startups: Annotated[str, AfterValidator(lambda text: str(MaxStartups.parse(text)))] = "256:30:1024"
    """How many clients of one worker may be logging in, as sshd's MaxStartups; it is those that stall who must go."""
    penalty_exempt: list[Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]] = []
    """Networks from where logins may fail as often as they like, such as `10.1.0.0/16`; others are locked out for a
    while, as by sshd's PerSourcePenalties."""
    worker_timeout: Annotated[float, Field(ge=1, le=3600)] = 20.0
    """Seconds for which a worker's event loop may stand still. Then the worker is replaced; its connections end."""
    max_user_connections: Annotated[int, Field(ge=1)] = 128
    """Connections that one user may have at once, over all workers."""
    max_user_forwards: Annotated[int, Field(ge=1)] = 256
    """Forwards (connections to sessions) that one user may have at once, on all connections and over all workers. A
    forward that the session does not read may hold 200 KiB of the gateway's memory."""
    max_user_window: ByteSize = ByteSize(32 * 1024 * 1024)
    """Further memory that all forwards of one user may hold together, over all workers, such as `32MiB`. A forward
    uses up to 2 MiB of it to upload fast from afar."""


class RegistrySettings(Section):
    """The database that knows all sessions."""

    url: str | None = None
    """An SQLAlchemy URL: `sqlite:////var/lib/berth/registry.db` (the default) or `postgresql+psycopg://…`."""
    connection_days: Annotated[float, Field(gt=0, le=36500)] = 90.0
    """How many days it is remembered who was connected to which session, and from where."""
    connection_records: Annotated[int, Field(ge=1000, le=10_000_000)] = 10_000
    """Records of connections that are kept for the sessions of one user, the newest. The gateway's log has all."""


class LimitSettings(Section):
    """What one user may have; default: as much as Slurm and the file system let them."""

    sessions: Annotated[int, Field(ge=1)] | None = None
    """How many sessions, stopped ones too."""
    gpu_sessions: Annotated[int, Field(ge=1)] | None = None
    """How many sessions with whole GPUs that run, or wait in the queue, at once; shards are not counted."""
    storage: ByteSize | None = None
    """How much disk space all sessions, their snapshots, and deleted ones that are kept, may take, such as `500GiB`.
    Who has more makes and starts none until there is room again. What a running session writes only the file system's
    own quota limits."""
    starts_per_hour: Annotated[int, Field(ge=1)] | None = None
    """How many starts within an hour. A session that goes on in another job is not started."""


class MetricsSettings(Section):
    """What the controller counts, for Prometheus."""

    listen: Listen | None = None
    """Where Prometheus finds it, such as `127.0.0.1:9417`; default: nowhere. Whoever can connect there can read it."""


class Config(Section):
    """All settings. Build it with `load`."""

    mode: Mode = Mode.PERSONAL
    """`site`: one controller for everybody, with launcher and gateway; `personal`: one's own, without root.
    A file at /etc/berth/config.yaml, or named by $BERTH_CONFIG, means `site` unless it says otherwise."""
    runtime_dir: AbsolutePath = RUNTIME_DIR
    """Where the API's socket is; in personal mode a private directory of the user."""
    state_dir: AbsolutePath = Path("/var/lib/berth")
    """The controller's own: registry, CA key."""
    idle_exit: Seconds = 600.0
    """Personal mode: the controller leaves after this long without a request or a session that moves."""
    restart_wait: Annotated[float, Field(ge=0, le=600)] = 60.0
    """Site mode: how many seconds a command waits for the controller while systemd starts or restarts it."""
    storage: StorageSettings = StorageSettings()
    profiles: ProfileSettings = ProfileSettings()
    slurm: SlurmSettings = SlurmSettings()
    ssh: SshSettings = SshSettings()
    gateway: GatewayConfig = GatewayConfig()
    registry: RegistrySettings = RegistrySettings()
    limits: LimitSettings = LimitSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _no_session_passes_for_the_gateway(self) -> Config:
        if self.gateway.enabled and self.gateway_host.lower().endswith(f".{self.ssh.domain}"):
            raise ValueError(
                f"gateway.host: {self.gateway_host} lies below ssh.domain, where a session of that name could pass for "
                "it; give the gateway another name, or sessions another domain"
            )
        return self

    @property
    def api_socket(self) -> Path:
        return self.runtime_dir / SOCKET_NAME

    @property
    def login_host(self) -> str:
        return self.ssh.login_host or os.uname().nodename

    @property
    def gateway_host(self) -> str:
        return self.gateway.host or self.login_host

    @property
    def gateway_port(self) -> int:
        return self.gateway.port or self.gateway.listen_port

    @property
    def gateway_workers(self) -> int:
        return self.gateway.workers or min(os.cpu_count() or 1, 4)

    @property
    def registry_url(self) -> str:
        return self.registry.url or f"sqlite:///{self.state_dir / 'registry.db'}"


def load_config(path: Path | None = None) -> Config:
    """Read the configuration that holds here: `path`, else `$BERTH_CONFIG`, else the site's file, else personal mode's.

    A file that says `mode: personal` changes personal mode's defaults; any other, those of site mode.
    Raises InvalidInputError naming file, setting and remedy; an explicitly named file must exist.
    """
    return _check(*read_config(path))


def _check(path: Path, values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        words = first["msg"].removeprefix("Value error, ")  # ours, which name the setting themselves
        what = words if words != first["msg"] and not where else f"{where}: {words}"
        raise InvalidInputError(f"{path}: {what}", hint=_hint(first["type"], where)) from error


def _hint(kind: str, where: str) -> str:
    if kind != "extra_forbidden":
        return "docs/reference/config.md has every setting with its type and default"
    section, _, key = where.rpartition(".")
    near = difflib.get_close_matches(key, known_settings(section), n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known_settings(section))}"


def known_settings(section: str) -> list[str]:
    """The settings of one section, of the top level for an empty name."""
    model: type[BaseModel] = Config
    if section:
        field = Config.model_fields.get(section)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return sorted(model.model_fields)
