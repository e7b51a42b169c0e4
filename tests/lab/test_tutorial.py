"""The tutorial, from its first command to its last, as a reader types it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.site import tutorial

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site


def test_every_command_of_the_tutorial_works_as_it_stands(site: Site, alice: User, image: str) -> None:
    assert image == tutorial.OTHER_PROFILE
    tutorial.begin_anew(site)
    outputs = dict[str, str]()
    try:
        for picture in tutorial.read_pictures():
            for command in picture.commands:
                done = tutorial.run_command(site, alice.laptop, command)
                assert done.returncode == 0, f"{command.shown} ended with {done.returncode}: {done.stdout}"
                outputs[picture.file.stem] = outputs.get(picture.file.stem, "") + done.stdout
    finally:
        tutorial.remove_sessions(site)
    right = "1048576 sums are right, computed on "
    assert {name for name, text in outputs.items() if right in text} == {
        "tutorial-program",
        "tutorial-rollback",
        "tutorial-batch",
    }
    assert "that was too much" in outputs["tutorial-change"]
    assert "not on base" in outputs["tutorial-clone"]
    assert "before-cleanup" in outputs["tutorial-end"]
