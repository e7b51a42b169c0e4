"""The report of `berth up`: each key of a devcontainer.json is taken, changed or ignored, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.devcontainer.ignored import Finding
    from profiles.devcontainer.plan import DevPlan


def report_json(plan: DevPlan) -> list[dict[str, object]]:
    """Return the report as JSON objects."""
    return [
        {"key": each.key, "verdict": each.verdict, "text": each.text, "important": each.important}
        for each in plan.findings
    ]


def print_report(plan: DevPlan) -> None:
    """Print the report as a table on stdout."""
    output.print_table(("KEY", "", "RESULT OR REASON"), [(each.key, each.verdict, each.text) for each in plan.findings])


def note_report(plan: DevPlan) -> None:
    """Print the report as messages."""
    output.print_note(f"{plan.config.file}:")
    note_findings(plan.findings)
    where = "the session sees it" if plan.is_bound else "the session gets a copy when it is made"
    output.print_note(f"  {plan.config.workspace} is {plan.config.inside} in the session; {where}")


def note_findings(findings: Sequence[Finding]) -> None:
    """Print parts of the report as messages."""
    for each in findings:
        mark = "warning: " if each.important else ""
        output.print_note(f"  {mark}{each.verdict}: {each.key}: {each.text}")
