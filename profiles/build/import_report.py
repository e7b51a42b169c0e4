"""The report of an imported container image: what was taken from its configuration, changed or ignored, and why."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from profiles.devcontainer.image_metadata import METADATA_LABEL, NO_METADATA, ImageMetadata, parse_metadata
from profiles.errors import DamagedImageError
from profiles.recipe.fields import one_line
from profiles.recipe.spec import RESERVED_VARIABLES, VARIABLE_PATTERN
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.oci.unpack_findings import Occurrences, UnpackFindings

IMPORT_REPORT = "import.json"
"""Beside the image of a version whose base is a container image."""
MAX_REPORT_BYTES = 4 * 2**20
MAX_ITEMS = 500
MAX_SUMMARY_ITEMS = 15
MAX_VALUE_CHARACTERS = 300
MAX_SUMMARY_CHARACTERS = 80
MAX_VARIABLE_CHARACTERS = 32_768
"""Characters of a variable: a quarter of what Linux lets one argument or variable have."""
LABEL = "Label "
"""The beginning of the key of an item for a label."""


class ImportOutcome(StrEnum):
    TAKEN = "taken"
    CHANGED = "changed"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class ReportItem:
    """One thing that the image says or has: the outcome, why, and what the user can do."""

    key: str
    """A key of the image's configuration, such as `Env PATH`, or a short name for content of its layers."""
    outcome: ImportOutcome
    value: str = ""
    reason: str = ""
    hint: str = ""


@dataclass(slots=True)
class ImportReport:
    """The report of one import."""

    base: str
    digest: str
    items: list[ReportItem] = field(default_factory=list)
    metadata: ImageMetadata = NO_METADATA
    """The label for dev containers, if the image is for one."""

    def write(self, folder: Path) -> None:
        """Write the report beside an image."""
        shown = self.items[:MAX_ITEMS]
        if len(self.items) > MAX_ITEMS:
            shown.append(
                ReportItem("more", ImportOutcome.IGNORED, str(len(self.items) - MAX_ITEMS), "too many to list")
            )
        report = {"base": self.base, "digest": self.digest, "items": [asdict(item) for item in shown]}
        if self.metadata.entries:
            report[METADATA_LABEL] = list(self.metadata.entries)
        (folder / IMPORT_REPORT).write_text(json.dumps(report, indent=1))

    def summary(self) -> list[str]:
        """Return a few lines for the end of a build."""
        taken = sum(item.outcome is ImportOutcome.TAKEN for item in self.items)
        labels = sum(item.key.startswith(LABEL) for item in self.items)
        shown = [
            item for item in self.items if item.outcome is not ImportOutcome.TAKEN and not item.key.startswith(LABEL)
        ]
        shown.sort(key=lambda item: item.outcome)  # what was changed comes first
        lines = [f"Imported {self.base}, {self.digest}: {taken} settings taken, {labels} labels ignored"]
        for item in shown[:MAX_SUMMARY_ITEMS]:
            hint = f" ({item.hint})" if item.hint else ""
            lines.append(f"{item.outcome}: {item.key}: {item.value[:MAX_SUMMARY_CHARACTERS]}: {item.reason}{hint}")
        if len(shown) > MAX_SUMMARY_ITEMS:
            lines.append(f"and {len(shown) - MAX_SUMMARY_ITEMS} more in {IMPORT_REPORT}")
        return lines


def read_import_report(folder: Path) -> dict[str, Any] | None:
    """Return the report beside an image; None if its base was no container image. Raises DamagedImageError."""
    try:
        content = read_bytes(folder / IMPORT_REPORT, MAX_REPORT_BYTES, own=False, follow=True)
        report = json.loads(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedImageError(f"{folder / IMPORT_REPORT} cannot be read", hint="build the profile again") from error
    if not isinstance(report, dict):
        raise DamagedImageError(f"{folder / IMPORT_REPORT} is damaged", hint="build the profile again")
    return report


def read_image_metadata(folder: Path) -> ImageMetadata:
    """Return the label for dev containers of the image in this folder of a store. Raises DamagedImageError."""
    report = read_import_report(folder) or {}
    return parse_metadata(report[METADATA_LABEL]) if METADATA_LABEL in report else NO_METADATA


_IGNORED_SETTINGS = {
    "User": ("a session runs as you", "files that this user owns may need `chmod` in `post`"),
    "WorkingDir": ("a session begins in your home", "go there with `cd`"),
    "Entrypoint": ("a session runs sshd", "start it in the session, or make it a service in `services`"),
    "Cmd": ("a session runs sshd", "start it in the session, or make it a service in `services`"),
    "ExposedPorts": (
        "a session publishes no port by itself",
        "forward the port, or make the program a service in `services`",
    ),
    "Volumes": ("a session keeps its home and its system itself", "`persistence.keep` names paths to keep"),
    "Labels": ("Berth has labels of its own", "the report has them"),
    "Healthcheck": ("Berth watches the session itself", "`services.ready` checks a service"),
    "StopSignal": ("Slurm ends a session", ""),
    "Shell": ("it is for builds of the image", ""),
    "OnBuild": ("it is for builds on top of the image with a Dockerfile", "do the same in `post`"),
}
"""Why each other setting has no effect, and what the user can do."""
_DEFAULT_REASON = ("Berth has no such setting", "")


def image_environment(
    settings: Mapping[str, Any], recipe: Mapping[str, str], metadata: ImageMetadata = NO_METADATA
) -> tuple[dict[str, str], list[ReportItem]]:
    """Return the variables to take from `Env`, literal values as the recipe writes them, and an item for each.

    Those of `metadata`, the image's label for dev containers, come later than those of `Env`. `recipe` has the
    variables of the recipe, which come later and so win.
    """
    listed = settings.get("Env") or []
    if not isinstance(listed, list):
        return {}, [ReportItem("Env", ImportOutcome.IGNORED, _short(listed), "it is no list")]
    taken: dict[str, str] = {}
    items = []
    for each in (*listed, *(f"{name}={value}" for name, value in metadata.environment().items())):
        name, equals, value = each.partition("=") if isinstance(each, str) else ("", "", "")
        reason = "it is not NAME=VALUE" if not equals else _variable_fault(name, value)
        if reason:
            items.append(ReportItem(f"Env {_short(name)}".strip(), ImportOutcome.IGNORED, _short(value), reason))
            continue
        taken[name] = value.replace("$", "$$")
        replaced = "the recipe sets it too, and comes later" if name in recipe else ""
        items.append(ReportItem(f"Env {name}", ImportOutcome.TAKEN, _short(value), replaced))
    return taken, items


def ignored_settings(settings: Mapping[str, Any], metadata: ImageMetadata = NO_METADATA) -> list[ReportItem]:
    """Return an item for every setting of the image, other than `Env`, that says something."""
    items = []
    if metadata.entries:
        text = f"{len(metadata.entries)} parts"
        items.append(ReportItem(METADATA_LABEL, ImportOutcome.TAKEN, text, "`berth up` merges them with its file"))
    elif metadata.fault:
        items.append(ReportItem(METADATA_LABEL, ImportOutcome.IGNORED, "", metadata.fault))
    for key, value in settings.items():
        if key == "Env" or value in (None, "", [], {}, False):
            continue
        reason, hint = _IGNORED_SETTINGS.get(key, _DEFAULT_REASON)
        if key == "Labels" and isinstance(value, dict):
            items += [
                ReportItem(f"{LABEL}{_short(name)}", ImportOutcome.IGNORED, _short(text), reason)
                for name, text in value.items()
                if name != METADATA_LABEL or not metadata.entries
            ]
        else:
            items.append(ReportItem(_short(key), ImportOutcome.IGNORED, _short(value), reason, hint))
    return items


def changed_content(findings: UnpackFindings) -> list[ReportItem]:
    """Return an item for everything in the layers that had to be changed."""
    reasons = (
        (
            "owners",
            findings.foreign_owners,
            "they are outside your subordinate ids, so these belong to root",
            "more ids in /etc/subuid and /etc/subgid keep them",
        ),
        (
            "capabilities",
            findings.capabilities,
            "a session has one user, and no file gives rights in it",
            "programs that need them, such as ping, do not work",
        ),
        ("extended attributes", findings.attributes, "images of Berth have none", ""),
    )
    items = [
        ReportItem(key, ImportOutcome.CHANGED, _where(found), why, hint)
        for key, found, why, hint in reasons
        if found.count
    ]
    if findings.pipes.count:
        items.append(ReportItem("named pipes", ImportOutcome.TAKEN, _where(findings.pipes)))
    return items


def _where(found: Occurrences) -> str:
    more = ", …" if found.count > len(found.examples) else ""
    return f"{found.count}: {', '.join(found.examples)}{more}"


def _variable_fault(name: str, value: str) -> str:
    """Return why the image's variable cannot be taken; empty if it can. The checks are those of the recipe."""
    if not re.fullmatch(VARIABLE_PATTERN, name):
        return "its name is not of letters, digits and `_`"
    if RESERVED_VARIABLES.match(name):
        return "the session sets it itself"
    if len(value) > MAX_VARIABLE_CHARACTERS:
        return f"its value has more than {MAX_VARIABLE_CHARACTERS} characters"
    try:
        one_line(value)
    except ValueError:
        return "its value has control characters or several lines"
    return ""


def _short(value: object) -> str:
    """Return a value as one bounded line without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_VALUE_CHARACTERS])
    return f"{shown}…" if len(text) > MAX_VALUE_CHARACTERS else shown
