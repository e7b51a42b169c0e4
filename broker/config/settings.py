"""The site's settings, read from one YAML file and validated at the start.

Site mode reads `/etc/berth/config.yaml` (or `$BERTH_CONFIG`). Where that file does not exist, Berth runs in personal
mode with defaults below the user's XDG folders, and `$XDG_CONFIG_HOME/berth/config.yaml` may change them.
docs/reference/config.md has a heading for every setting; a test keeps it so.
"""

from __future__ import annotations

import difflib
import os
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
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
from broker.config.operator_settings import OperatorSettings
from broker.config.profile_settings import ProfileSettings
from broker.config.registry_settings import RegistrySettings
from broker.config.section import Section
from broker.config.setting_types import AbsolutePath, HostName, Listen, NodeDirectory, Seconds
from broker.config.sharing_settings import SharingSettings
from broker.config.web_settings import WebSettings
from broker.errors import InvalidInputError
from broker.names import MAX_CERTIFICATE_HOURS, MAX_CONNECT_WAIT_S
from broker.origins import Origins
from broker.schema.sessions import Continuation, IdleTime
from broker.ssh.keys import PublicKey
from broker.ssh.max_startups import MaxStartups
from slurm.sbatch import check_options

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


MAX_SUBMIT_TIMEOUT_S = 3600.0
MAX_READY_TIMEOUT_S = 3600.0
"""The launcher accepts no longer time limit of a call."""


class StorageSettings(Section):
    """The location of sessions on the shared file system."""

    root: str = "~/.local/share/berth"
    """A template for one user's directory, such as `/shared/berth/{user}`; a leading `~` is that user's home."""
    binds: list[str] = []
    """Directories of the shared file system that a profile may bind: absolute path prefixes; `:ro` allows reading
    only."""
    driver: Literal["auto", "overlay", "reflink", "plain"] = "auto"
    """The storage driver of new sessions; `auto` probes the file system: see docs/reference/storage.md."""
    submission_directory: bool = True
    """Whether a job of `berth sbatch --env` sees the directory of its submission and that of `--chdir`, writable and at
    the same path. A profile's `submission_directory` can only forbid it."""
    deleted_grace: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """Time for which the data of a deleted session is kept, so that `berth restore` can restore it."""
    batch_grace: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """Time for which the output of a job of `berth sbatch --env` is kept, for `berth fetch` and `promote`."""
    flatten_at: Annotated[int, Field(ge=2, le=50)] = 20
    """Number of layers of a stopped session's home or system from which on they are merged in the background. A start
    mounts all layers."""
    tmp_directories: Annotated[list[NodeDirectory], Field(min_length=1, max_length=16)] = ["/tmp", "/var/tmp"]  # noqa: S108 - of compute nodes
    """Directories of compute nodes for the `/tmp` and `/var/tmp` of sessions and batch jobs. A job takes the first that
    is on a disk with 1 GiB free, after `$SLURM_TMPDIR` if a prolog sets that. `{user}` and `{job}` stand for the user's
    name and the job's id. A tmpfs is taken only if there is no other: its files count as the job's memory."""
    save_every: Annotated[int, Field(ge=1, le=9_999_999)] = 600
    """Seconds between two saves of a running session's changes outside its home, if they are on the node's disk
    (docs/reference/storage.md). Without changes, nothing is saved."""

    @model_validator(mode="after")
    def _check_paths(self) -> StorageSettings:
        if not (self.root.startswith("~/") or (self.root.startswith("/") and "{user}" in self.root)):
            raise ValueError("storage.root must start with ~/ or be absolute and contain {user}")
        for bind in self.binds:
            if not bind.startswith("/") or ":" in bind.removesuffix(":ro"):
                raise ValueError(f"{bind!r} is not an absolute path, or one followed by :ro")
        return self


class SlurmSettings(Section):
    """Queries to Slurm, their timeouts, and policies of jobs."""

    backend: Literal["auto", "pyslurm", "commands"] = "auto"
    """`pyslurm`, or Slurm's `commands`; `auto` selects pyslurm if it can be imported and answers."""
    query_timeout: Seconds = 30.0
    """Timeout of a query."""
    cluster_interval: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds for which an answer about nodes, partitions and queue serves all users (`berth cluster`). Without a user
    who looks, Slurm is not queried for them."""
    submit_timeout: Annotated[float, Field(gt=0, le=MAX_SUBMIT_TIMEOUT_S)] = 30.0
    """Timeout of sbatch. If the job was queued nevertheless, it is found by its name."""
    submit_grace: Seconds = 60.0
    """Time for a job to appear after a submission without a clear answer; then it is submitted again."""
    ready_timeout: Annotated[float, Field(ge=1, le=MAX_READY_TIMEOUT_S)] = 300.0
    """Time in which a session that continues in its job after a rollback, a switch, a restart or root mode must become
    ready. After that the operation is undone, and the session starts as before."""
    lost_grace: Seconds = 360.0
    """Time for which a job must be missing from slurmctld, and unknown to slurmdbd, until it counts as lost. At least
    slurm.conf's MinJobAge plus the clocks' skew."""
    continuation: Continuation = "12h"
    """Whether a session continues in a new job when its job has to end, unless its profile or owner decides otherwise:
    `always`, `never`, or if it was used within a time, such as `12h`."""
    idle: IdleTime = "never"
    """Idle time after which a session is stopped, unless its profile or owner decides otherwise: a time such as `8h`,
    or `never`. Use is work of its processors or its GPU, input in its terminals, and traffic of its connections."""
    successor_lead: Seconds = 600.0
    """Time before a job's time limit at which its successor is submitted; at most half of the limit."""
    longest_job: Seconds | None = None
    """Longest total time of a job after an extension (`berth extend`), within its partition's limit; default: no
    extensions. The service account must be a Slurm operator."""
    show_names: bool | None = None
    """Whether the comments of jobs have the names of their sessions, so that squeue shows them; default: only if Slurm
    hides a user's jobs from other users (`jobs` in PrivateData of slurm.conf), and accounting stores no comments
    (`job_comment` in AccountingStoreFlags)."""
    options: list[str] = []
    """Default sbatch options of all sessions, as `--name=value`; profile and user can override them."""

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: list[str]) -> list[str]:
        check_options(options)
        return options


class SshSettings(Section):
    """Names and host certificates of sessions."""

    domain: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,38}$")] = "berth"
    """The suffix of session host names: `ssh dev.berth`."""
    login_host: HostName | None = None
    """The login node's name for users' ssh clients; default: this host's name."""
    start_on_connect: bool = True
    """Whether a connection to a stopped session starts it; `berth set` can override it for one session."""
    connect_wait: Annotated[float, Field(ge=0, le=MAX_CONNECT_WAIT_S)] = 12.0
    """Time for which a connection waits for a session that is not ready, until it is refused with the session's state.
    IDEs give up after 15 s, without a message."""
    answer_timeout: Annotated[float, Field(ge=MIN_ANSWER_TIMEOUT_S, le=MAX_ANSWER_TIMEOUT_S)] = ANSWER_TIMEOUT_S
    """Seconds for a session's node to accept a connection, and then for the session's sshd to prove that it is the
    session's own. After that the connection is refused: the session does not answer. The gateway and `berth connect`
    wait this long; 10 s are enough for three repetitions of a lost packet."""
    login_with: Literal["keys", "certificates", "both"] = "keys"
    """Credentials for gateway and sessions: users' keys, certificates, or both. `berth login` issues certificates;
    those of user_ca_keys are accepted as well."""
    user_ca_keys: list[Annotated[str, AfterValidator(lambda line: PublicKey.parse(line).line)]] = []
    """Public keys of the site's own authorities, whose user certificates are accepted."""
    user_certificate_hours: Annotated[float, Field(gt=0, le=MAX_CERTIFICATE_HOURS)] = 16.0
    """Longest validity of a certificate of `berth login`, in hours."""
    ca_overlap_days: Annotated[float, Field(ge=0, le=365)] = 14.0
    """Days for which the next key of the host authority is announced before it may sign. Within this time, every client
    must fetch it with `berth ssh-config`."""
    host_certificate_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Validity of a session's host certificate, in days; at least the longest job. It is renewed at each start."""


class GatewayConfig(Section):
    """The ssh gateway to all sessions."""

    enabled: bool = True
    """Whether the site runs a gateway. Without one, users connect through the login node's sshd, as in personal
    mode."""
    listen_host: str = "0.0.0.0"  # noqa: S104 - people reach the gateway from other machines; this is its purpose
    """The address to listen on."""
    listen_port: Annotated[int, Field(ge=1, le=65535)] = 2222
    """The TCP port to listen on."""
    host: HostName | None = None
    """The gateway's name for users' ssh clients; default: ssh.login_host. It must not be below ssh.domain."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The gateway's port for users' ssh clients; default: listen_port."""
    account: str = "berth-gateway"
    """The only account that may query other users' keys and endpoints."""
    host_key: AbsolutePath = Path("/var/lib/berth-gateway/ssh_host_ed25519_key")
    """The gateway's host key, created at the first start; the directory belongs to the gateway's account."""
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes that serve the port; default: one for each processor, at most 4."""
    metrics_listen: Listen | None = None
    """Address of the gateway's metrics for Prometheus, such as `127.0.0.1:9418`; default: none."""
    max_startups: Annotated[str, AfterValidator(lambda text: str(MaxStartups.parse(text)))] = "256:30:1024"
    """Limit of pending logins of one worker, as sshd's MaxStartups; but stalled logins are dropped first."""
    penalty_exempt: list[Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]] = []
    """Networks without penalties for failed logins, such as `10.1.0.0/16`. Other addresses are refused for a while, as
    by sshd's PerSourcePenalties."""
    worker_timeout: Annotated[float, Field(ge=1, le=3600)] = 20.0
    """Seconds for which a worker's event loop may hang; then the worker is replaced and its connections end."""
    max_user_connections: Annotated[int, Field(ge=1)] = 128
    """Connections of one user at once, over all workers."""
    max_user_forwards: Annotated[int, Field(ge=1)] = 256
    """Forwards (connections to sessions) of one user at once, over all workers. A forward whose data the session does
    not read may use 200 KiB of the gateway's memory."""
    max_user_window: ByteSize = ByteSize(32 * 1024 * 1024)
    """Further memory for all forwards of one user together, over all workers, such as `32MiB`. A forward uses up to
    2 MiB of it for fast uploads over a long distance."""


class LimitSettings(Section):
    """Limits of one user; default: only those of Slurm and the file system."""

    sessions: Annotated[int, Field(ge=1)] | None = None
    """Number of sessions, including stopped ones."""
    gpu_sessions: Annotated[int, Field(ge=1)] | None = None
    """Number of sessions with whole GPUs that run or are queued at once; shards do not count."""
    storage: ByteSize | None = None
    """Disk space of all sessions with their snapshots, and of deleted ones that can be restored, such as `500GiB`. A
    user above the limit cannot create or start sessions. Only the file system's quota limits a running session."""
    starts_per_hour: Annotated[int, Field(ge=1)] | None = None
    """Number of starts within an hour. The continuation in a new job does not count as a start."""


class WatchSettings(Section):
    """Streams of changes, as for `berth list --watch`."""

    heartbeat: Annotated[float, Field(ge=0.1, le=60)] = 15.0
    """Seconds without a change after which a stream sends a sign of life. A client gives up after three of them."""
    max_user_streams: Annotated[int, Field(ge=1, le=200)] = 64
    """Streams of one user at once. Each is one of the user's connections to the controller."""


class MetricsSettings(Section):
    """The controller's metrics for Prometheus."""

    listen: Listen | None = None
    """Address of the controller's metrics, such as `127.0.0.1:9417`; default: none. Every client that can connect can
    read them."""


class Config(Section):
    """All settings. Build it with `load`."""

    mode: Mode = Mode.PERSONAL
    """`site`: one controller for all users, with launcher and gateway. `personal`: a controller of the user's own,
    without root. The default is `site` for /etc/berth/config.yaml and for the file of $BERTH_CONFIG."""
    runtime_dir: AbsolutePath = RUNTIME_DIR
    """The directory of the API's socket; in personal mode a private directory of the user."""
    state_dir: AbsolutePath = Path("/var/lib/berth")
    """The controller's directory, for the registry and the CA's keys."""
    idle_exit: Seconds = 600.0
    """Personal mode: the controller exits after this time without a request and without a session that changes its
    state."""
    restart_wait: Annotated[float, Field(ge=0, le=600)] = 60.0
    """Site mode: seconds for which a command waits while systemd starts or restarts the controller."""
    storage: StorageSettings = StorageSettings()
    profiles: ProfileSettings = ProfileSettings()
    slurm: SlurmSettings = SlurmSettings()
    ssh: SshSettings = SshSettings()
    gateway: GatewayConfig = GatewayConfig()
    web: WebSettings = WebSettings()
    registry: RegistrySettings = RegistrySettings()
    limits: LimitSettings = LimitSettings()
    sharing: SharingSettings = SharingSettings()
    operators: OperatorSettings = OperatorSettings()
    watch: WatchSettings = WatchSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _check_gateway_host(self) -> Config:
        if self.gateway.enabled and self.gateway_host.lower().endswith(f".{self.ssh.domain}"):
            raise ValueError(
                f"gateway.host: {self.gateway_host} is below ssh.domain, where a session could impersonate "
                "it; change the gateway's name or ssh.domain"
            )
        return self

    @model_validator(mode="after")
    def _check_web_account(self) -> Config:
        if self.has_web and self.gateway.enabled and self.web.account == self.gateway.account:
            raise ValueError("web.account: berth-web needs an account of its own, not the gateway's")
        return self

    @property
    def has_web(self) -> bool:
        """Whether the site has web access. In personal mode, a user opens services with `berth open --local`."""
        return self.mode is Mode.SITE and self.web.url is not None

    @property
    def has_sharing(self) -> bool:
        """Whether grants count."""
        return self.mode is Mode.SITE and self.sharing.enabled

    @property
    def origins(self) -> Origins | None:
        """The origins of web access; None without it."""
        return Origins.parse(self.web.url) if self.has_web and self.web.url else None

    @property
    def portal_url(self) -> str:
        """The portal's address; empty without web access."""
        return "" if self.origins is None else self.origins.portal_url

    @property
    def web_control_socket(self) -> Path:
        """The socket at which berth-web takes the controller's requests."""
        return self.web.runtime_dir / "control.sock"

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
    """Read `path`, else `$BERTH_CONFIG`, else the site's file, else personal mode's, and validate it.

    A file with `mode: personal` changes personal mode's defaults; other files change those of site mode.
    InvalidInputError has file, setting and a hint; an explicitly named file must exist.
    """
    return _check(*read_config(path))


def _check(path: Path, values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        found = [_fault(fault) for fault in faults]
        what = found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} faults", *found])
        hints = dict.fromkeys(_hint(fault["type"], _setting(fault)) for fault in faults)  # each once, in their order
        raise InvalidInputError(f"{path}: {what}", hint="; ".join(hints)) from error


def _setting(fault: ErrorDetails) -> str:
    return ".".join(str(part) for part in fault["loc"])


def _fault(fault: ErrorDetails) -> str:
    text = fault["msg"].removeprefix("Value error, ")  # Berth's own errors, which may contain the setting
    where = _setting(fault)
    return f"{where}: {text}" if where else text


def _hint(kind: str, where: str) -> str:
    if kind != "extra_forbidden":
        return "docs/reference/config.md lists all settings with type and default"
    section, _, key = where.rpartition(".")
    near = difflib.get_close_matches(key, known_settings(section), n=1)
    return f"did you mean {near[0]}?" if near else f"settings of this section: {', '.join(known_settings(section))}"


def known_settings(section: str) -> list[str]:
    """Return the names of a section's settings; those of the top level for an empty name."""
    model: type[BaseModel] = Config
    for part in section.split(".") if section else ():
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return sorted(model.model_fields)
