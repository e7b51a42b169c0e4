"""The form for a new session: its fields, their request, and the equivalent `berth start` line.

The types of the API are imported when a request is made: they take long, and the interface starts without them.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.forms.form import Field, Form
from broker.user_input import (
    ProfileReference,
    default_options,
    parse_kept,
    parse_name,
    parse_persistence,
    parse_profile_reference,
    parse_session_options,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from broker.schema.sessions import StartRequest

_GRES = re.compile(r"none|gpu|shard|mps|[a-z][a-z0-9_-]*(:[A-Za-z0-9_.-]+)?:[1-9][0-9]{0,5}", re.ASCII)
"""A name of the site's own needs its count here: a bare word is more often a mistake."""
_COUNT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)

RESOURCE_FIELDS = ("gpus", "cpus", "memory", "time", "partition", "account", "qos", "node", "options")
"""The ids of the fields that become options of sbatch, in the order of the command line."""


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """A published version of a profile, as `berth profile list --json` prints it."""

    name: str
    version: str
    owner: str
    description: str = ""
    newest: bool = False

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def parse_profile_list(text: str) -> list[ProfileChoice]:
    """Return the profiles in the output of `berth profile list --json` that start; ValueError for another text."""
    try:
        return [
            ProfileChoice(
                str(each["name"]),
                str(each["version"]),
                str(each["owner"]),
                str(each.get("description") or ""),
                bool(each.get("newest")),
            )
            for each in json.loads(text)["profiles"]
            if (each.get("state") or {}).get("state") != "retired"
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("the list of profiles is of another version of Berth") from error


def profile_texts(profiles: Sequence[ProfileChoice]) -> tuple[str, ...]:
    """Return the texts to choose a profile from, with the owner where the site and the user have the same name."""
    owners: dict[str, set[str]] = {}
    for each in profiles:
        owners.setdefault(each.name, set()).add(each.owner)
    named = [(f"{each.owner}/" if len(owners[each.name]) > 1 else "", each) for each in profiles]
    newest = [f"{owner}{each.name}" for owner, each in named if each.newest]
    return (*newest, *(f"{owner}{each}" for owner, each in named if not each.newest))


def describe_profile(profiles: Sequence[ProfileChoice], text: str) -> str:
    """Describe the profile that a valid text names: its version and its description; empty if it is unknown."""
    for each in _matching_profiles(profiles, text):
        return f"{each}{f': {each.description}' if each.description else ''}"
    return ""


def new_session_form(
    profiles: Sequence[ProfileChoice] | None = None, taken: Collection[str] = (), *, for_browser: bool = False
) -> Form:
    """Return the form for a new session.

    Names of existing sessions, `taken`, are refused in place, and with `profiles` also other profiles. With
    `for_browser`, the form has no fields for what a browser may not choose: what is kept, and some options.
    """

    def parse_free_name(text: str) -> str:
        if text in taken:
            raise ValueError(f"you already have a session {text}")
        return parse_name(text)

    profile = profile_field(profiles, required=True, help="what the session contains; without a version, the newest")
    name = Field(id="name", title="Name", parse=parse_free_name, required=True, example="dev")
    others = queue_fields() if for_browser else (*resource_fields(), *persistence_fields())
    return Form("New session", (name, profile, *others), rule=_contradictions)


def profile_field(
    profiles: Sequence[ProfileChoice] | None,
    *,
    required: bool,
    help: str,  # noqa: A002 - the field's word
) -> Field:
    """Return the field of a profile. With `profiles`, other profiles are refused in place."""
    known = profile_texts(profiles) if profiles is not None else ()

    def parse_known_profile(text: str) -> ProfileReference:
        reference = parse_profile_reference(text)
        if profiles is not None:
            _check_known(profiles, text, known)
        return reference

    return Field(
        id="profile",
        title="Profile",
        parse=parse_known_profile,
        required=required,
        choices=known,
        open=True,
        example="base or base@1",
        help=help,
    )


def resource_fields() -> tuple[Field, ...]:
    """Return the fields of a job's resources; an empty one leaves the profile's or the site's value."""
    return (
        *queue_fields(),
        _word_field("node", "Node", "nodelist"),
        Field(
            id="options",
            title="Options",
            parse=parse_option_line,
            example="--constraint=avx512",
            help="further options of sbatch",
        ),
    )


def queue_fields() -> tuple[Field, ...]:
    """Return the fields of a job's size and queue: those resources that a browser may set."""
    return (
        Field(
            id="gpus",
            title="GPUs",
            parse=parse_gpus,
            example="1, gpu:intel:1, shard:1",
            help="a number, or as for --gres; none releases them",
        ),
        Field(id="cpus", title="CPUs", parse=_parse_cpus, example="8"),
        _option_field("memory", "Memory", "mem", "16G"),
        _option_field("time", "Time", "time", "8h, 1h30m, 2d"),
        _word_field("partition", "Partition", "partition"),
        _word_field("account", "Account", "account"),
        _word_field("qos", "QOS", "qos"),
    )


def persistence_fields() -> tuple[Field, ...]:
    """Return the fields of what is kept after a stop."""
    kept = "home, system, or paths, separated by commas"
    return (
        Field(id="keep", title="Keep", parse=_parse_kept_list, help=f"kept after a stop: {kept}"),
        Field(id="fresh", title="Fresh", parse=_parse_kept_list, help=f"from the profile at each start: {kept}"),
    )


def resource_options(form: Form) -> list[str]:
    """Return the canonical options of a valid form's resource fields, the last of each name."""
    values = form.values()
    words = [word for field_id in RESOURCE_FIELDS for word in _words(values.get(field_id))]
    return parse_session_options(words)


def start_request(form: Form, variables: Mapping[str, str]) -> StartRequest:
    """Return the request of a valid form. `variables` is the environment, whose SBATCH_ variables are defaults."""
    from broker.schema.sessions import Persistence, StartRequest  # noqa: PLC0415 - see above

    values = form.values()
    profile = values["profile"]
    assert isinstance(profile, ProfileReference)
    persistence = parse_persistence(_words(values.get("keep")), _words(values.get("fresh")))
    return StartRequest(
        profile=profile.name,
        version=profile.version,
        options=resource_options(form),
        defaults=default_options(variables),
        persistence=None if persistence is None else Persistence.model_validate(persistence),
    )


def start_command(form: Form) -> list[str]:
    """Return the `berth start` line that makes the same request as a valid form."""
    values = form.values()
    kept = [word for side in ("keep", "fresh") for path in _words(values.get(side)) for word in (f"--{side}", path)]
    return ["berth", "start", str(values["name"]), "--profile", str(values["profile"]), *kept, *resource_options(form)]


def parse_gpus(text: str) -> str:
    """Return the option --gres of a number of GPUs, or of generic resources as for sbatch."""
    if _COUNT.fullmatch(text):
        return f"--gres=gpu:{text}"
    if all(_GRES.fullmatch(each) for each in text.split(",")):
        return f"--gres={text}"
    raise ValueError(f"{text[:60]!r} is neither a number of GPUs nor of the form gpu:1, gpu:TYPE:1, shard:1 or none")


def parse_option_line(text: str) -> list[str]:
    """Return the canonical options of sbatch in a line, which may have quotation marks as in a shell."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("a quotation mark or a backslash at the end is not completed") from None
    return parse_session_options(words)


def _option_field(field_id: str, title: str, option: str, example: str) -> Field:
    def parse(text: str) -> str:
        try:
            return parse_session_options([f"--{option}={text}"])[0]
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"--{option}: ")) from None

    return Field(id=field_id, title=title, parse=parse, example=example)


def _word_field(field_id: str, title: str, option: str) -> Field:
    def parse(text: str) -> str:
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{text[:60]!a} has characters that no name in Slurm has")
        return parse_session_options([f"--{option}={text}"])[0]

    return Field(id=field_id, title=title, parse=parse)


def _parse_cpus(text: str) -> str:
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not a number of CPUs from 1 to 99999")
    return f"--cpus-per-task={text}"


def _parse_kept_list(text: str) -> list[str]:
    return [parse_kept(each.strip()) for each in text.split(",")]


def _contradictions(values: Mapping[str, object]) -> dict[str, str]:
    try:
        parse_persistence(_words(values.get("keep")), _words(values.get("fresh")))
    except ValueError as error:
        return {"fresh": str(error)}
    try:
        parse_session_options([word for field_id in RESOURCE_FIELDS for word in _words(values.get(field_id))])
    except ValueError as error:
        return {"options": str(error)}
    return {}


def _check_known(profiles: Sequence[ProfileChoice], text: str, known: Sequence[str]) -> None:
    found = _matching_profiles(profiles, text)
    if not found:
        rest = f"; there are {', '.join(known)}" if known else " yet"
        raise ValueError(f"there is no profile {text}{rest}")
    if len({each.owner for each in found}) > 1:
        raise ValueError(f"the site and you have a profile {text}: use site/{text} or own/{text}")


def _matching_profiles(profiles: Sequence[ProfileChoice], text: str) -> list[ProfileChoice]:
    """Return the versions that a profile's text means, the newest first."""
    reference = parse_profile_reference(text)
    owner, _, name = reference.name.rpartition("/")
    found = [each for each in profiles if each.name == name and owner in {"", each.owner}]
    if reference.version is not None:
        return [each for each in found if each.version == reference.version]
    return sorted(found, key=_is_older)


def _is_older(profile: ProfileChoice) -> bool:
    return not profile.newest


def _words(value: object) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
