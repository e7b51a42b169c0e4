"""Read a site's statements about vulnerabilities: OpenVEX (github.com/openvex/spec), versions 0.0.1 to 0.2.0.

A statement with the status `not_affected` or `fixed` mutes findings. `not_affected` needs a reason, as the
specification demands. Of several statements about one finding the latest counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from profiles.userfile import read_bytes
from profiles.vulnerabilities.debian_tracker import short_summary
from profiles.vulnerabilities.finding import VulnerabilityDataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.vulnerabilities.finding import VulnerabilityFinding

MAX_VEX_BYTES = 64 << 20
_STATUSES = {"not_affected", "affected", "fixed", "under_investigation"}


@dataclass(frozen=True, slots=True)
class VexStatement:
    """One statement: about a vulnerability, in some products."""

    time: float
    names: frozenset[str]
    """The vulnerability's identifier and its aliases."""
    products: frozenset[tuple[str, str, str]]
    """Kind, name and version of package URLs; an empty version stands for all."""
    muted: str
    """The reason; empty for a statement that mutes nothing."""


def read_vex(file: Path) -> list[VexStatement]:
    """Return the statements of a file. Raises VulnerabilityDataError."""
    try:
        document = json.loads(read_bytes(file, MAX_VEX_BYTES, own=False, follow=True))
        if "openvex" not in str(document["@context"]):
            raise ValueError("not OpenVEX")
        statements = document["statements"]
    except OSError as error:
        raise VulnerabilityDataError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VulnerabilityDataError(f"{file} is no OpenVEX document", hint="it must be JSON with @context") from error
    found = []
    for number, statement in enumerate(statements, start=1):
        try:
            found.append(_statement(statement, document))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VulnerabilityDataError(
                f"statement {number} in {file} is not valid: {error}", hint="nothing of the file was used"
            ) from error
    return found


def mute_findings(
    findings: Sequence[VulnerabilityFinding], statements: Sequence[VexStatement], image: tuple[str, str]
) -> list[VulnerabilityFinding]:
    """Return the findings, those muted that a statement says do not concern the image of this name and version."""
    in_order = sorted(statements, key=lambda each: each.time)
    return [_apply_statements(finding, in_order, image) for finding in findings]


def _apply_statements(
    finding: VulnerabilityFinding, statements: Sequence[VexStatement], image: tuple[str, str]
) -> VulnerabilityFinding:
    reason = ""
    package = finding.package
    own = {("generic", *image), ("generic", image[0], "")}
    for name in {package.name, *package.installed}:
        own |= {(package.kind.value, name, package.version), (package.kind.value, name, "")}
    for statement in statements:
        if statement.names & {finding.id, *finding.aliases} and statement.products & own:
            reason = statement.muted
    return replace(finding, muted=reason)


def _statement(statement: dict[str, Any], document: dict[str, Any]) -> VexStatement:
    status = statement["status"]
    if status not in _STATUSES:
        raise ValueError("the status is unknown")
    reason = statement.get("justification") or statement.get("impact_statement")
    if status == "not_affected" and not isinstance(reason, str):
        raise ValueError("not_affected needs a justification or an impact_statement")
    vulnerability = statement["vulnerability"]
    if isinstance(vulnerability, str):
        vulnerability = {"name": vulnerability}
    names = frozenset(map(str, (vulnerability["name"], *vulnerability.get("aliases", []))))
    products = frozenset(_product(each) for product in statement["products"] for each in _components(product))
    if not products:
        raise ValueError("it names no product")
    time = datetime.fromisoformat(statement.get("timestamp") or document["timestamp"]).timestamp()
    text = short_summary(reason) or "fixed, says the statement"
    return VexStatement(time, names, products, text if status in {"not_affected", "fixed"} else "")


def _components(product: Any) -> list[str]:  # noqa: ANN401 - whatever the JSON has
    """Return what a product names: its components if there are some, else itself."""
    if isinstance(product, str):
        return [product]
    return [each["@id"] for each in product.get("subcomponents", [])] or [product["@id"]]


def _product(url: str) -> tuple[str, str, str]:
    """Return kind, name and version of a package URL; a npm scope is part of the name, a distribution is not."""
    scheme, _, rest = url.partition(":")
    path = rest.partition("?")[0].partition("#")[0]
    kind, _, path = path.partition("/")
    name, _, version = path.partition("@")
    if scheme != "pkg" or not name:
        raise ValueError("a product is no package URL")
    name = unquote(name if kind == "npm" else name.rpartition("/")[2])
    return kind, name, unquote(version)
