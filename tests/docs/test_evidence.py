"""What the pages point at is there: tests named as evidence, failpoints, every decision in the index."""

from __future__ import annotations

import re

from tests.docs.generate import ROOT

TESTS = {file.name: file for file in (ROOT / "tests").rglob("test_*.py")}
REFERENCE = re.compile(r"`(test_\w+\.py|…)(?:::(\w+))?`")


def test_every_test_that_security_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    found = REFERENCE.findall(text)
    assert len(found) > 50
    file = ""
    for name, test in found:
        file = file if name == "…" else name  # an ellipsis stands for the file that was named last
        assert file in TESTS, file
        assert not test or f"def {test}(" in TESTS[file].read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_failpoint_is_in_behaviour() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "broker").rglob("*.py"))
    labels = re.findall(r'failpoint\("([\w.-]+)"\)', sources)
    assert labels
    text = (ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8")
    assert [label for label in labels if f"`{label}`" not in text] == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    for file in sorted(folder.glob("[0-9]*.md")):
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert f"- [{title}]({file.name})" in index, file.name
