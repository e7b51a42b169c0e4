"""The schema of a service: a web application that runs inside a session and listens on a Unix socket.

A profile declares the services of its sessions. A user adds others in `~/.config/berth/services.d` of the session, by
files with the same key `services`. Inside the session there is a third form, lines that a shell can read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError, model_validator

from profiles.recipe.fields import STRICT, one_line, refuse_duplicates
from profiles.recipe.problems import problems_error
from profiles.recipe.schema_problems import schema_problems
from profiles.recipe.yaml_document import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RESERVED_NAMES = frozenset({"vscode", "cursor", "jetbrains", "zed"})
"""The IDEs of `berth open`, which no service can be named after."""
SOCKET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,58}\.sock$"
SERVICE_PATTERN_MESSAGES = {
    SOCKET_PATTERN: "must be a file's name of at most 64 letters, digits, `.`, `_` and `-` that ends in `.sock`",
}
"""The meaning of each pattern in words."""
MAX_NAME_CHARS = 39
MAX_SERVICES = 24
"""Services of one profile or file: with the limits of each text, a session's list stays below 256 KiB."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""A name is a part of a host name, whose parts `--` separates."""


def parse_service_name(text: str) -> str:
    """Return a valid name of a service. Raises ValueError with the rule."""
    if len(text) > MAX_NAME_CHARS or not _NAME.fullmatch(text):
        raise ValueError(
            f"must be a lower-case letter, then lower-case letters, digits and single `-`, at most {MAX_NAME_CHARS} "
            "characters, with a letter or digit at the end"
        )
    if text in RESERVED_NAMES:
        raise ValueError(f"{text} is the name of an IDE: choose another name")
    return text


ServiceName = Annotated[str, AfterValidator(parse_service_name)]
Command = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(one_line)]
Probe = Annotated[str, StringConstraints(max_length=1000), AfterValidator(one_line)]
Title = Annotated[str, StringConstraints(max_length=60), AfterValidator(one_line)]
Description = Annotated[str, StringConstraints(max_length=200), AfterValidator(one_line)]
Icon = Literal["terminal", "notebook", "code", "chart", "web"]


class Service(BaseModel):
    """A service of a session: what to run, how to know that it is ready, and how to show it."""

    model_config = STRICT

    name: ServiceName
    command: Command
    """One line for bash. It has to listen on the Unix socket `$BERTH_SOCKET`."""
    socket: Annotated[str, StringConstraints(pattern=SOCKET_PATTERN)]
    """The socket's file name; `NAME.sock` by default."""
    ready: Probe = ""
    """A command that succeeds as soon as the service answers; empty: it is ready when it listens."""
    title: Title = ""
    description: Description = ""
    icon: Icon = "web"
    shell: bool = False
    """Whether a user who opens it can run any command with it."""

    @model_validator(mode="before")
    @classmethod
    def _default_socket(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever the file says
        if not isinstance(data, dict) or "socket" in data:
            return data
        try:
            name = parse_service_name(str(data.get("name")))
        except ValueError:
            name = "unnamed"  # one fault, of the name
        return {"socket": f"{name}.sock", **data}


ServiceList = Annotated[
    list[Service],
    Field(max_length=MAX_SERVICES),
    AfterValidator(refuse_duplicates("name")),
    AfterValidator(refuse_duplicates("socket")),
]


class ServiceFile(BaseModel):
    """A file of `services.d`."""

    model_config = STRICT

    services: ServiceList


def parse_service_file(text: str, path: Path) -> list[Service]:
    """Check a file of `services.d`; ProfileError has all its problems. `path` is its file, for messages."""
    document = parse_yaml(text, path)
    try:
        services = ServiceFile.model_validate(document.data).services
    except ValidationError as error:
        wrong = schema_problems(error, document, ServiceFile, {"services": Service}, SERVICE_PATTERN_MESSAGES)
        raise problems_error([*document.duplicates, *wrong], path) from error
    if document.duplicates:
        raise problems_error(document.duplicates, path)
    return services


def format_services(services: Iterable[Service]) -> str:
    """Return services as lines `KEY=VALUE`, an empty line after each: the program inside the session reads them."""
    return "".join(
        "".join(f"{key}={_format_value(value)}\n" for key, value in service.model_dump().items()) + "\n"
        for service in services
    )


def parse_services(text: str) -> list[Service]:
    """Read what `format_services` wrote, perhaps in another release. Raises ValueError for anything else."""
    known = Service.model_fields.keys()
    found = []
    for block in text.split("\n\n"):
        pairs = dict(line.partition("=")[::2] for line in block.split("\n") if line)
        if pairs:
            found.append(Service.model_validate({key: value for key, value in pairs.items() if key in known and value}))
    return found


def _format_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
