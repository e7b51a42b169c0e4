"""What a script of `berth sbatch --env` finds in its environment as it would find it on the node itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.batch_work import Work

if TYPE_CHECKING:
    from tests.lab.conftest import User


@pytest.fixture
def work(alice: User, image: str) -> Work:
    assert image
    return Work(alice)


def test_the_umask_is_the_submissions(work: Work) -> None:
    """In the script, in its steps on this and another node, and in files."""
    work.write("job.sh", "#!/bin/sh\numask\nsrun -N2 sh -c umask\ntouch ~/file\nstat -c %a ~/file\n")
    submit = "berth sbatch --env base --wait -N2 -t 5 --mem=200M"
    masks = ("0077", "0000", "0137")
    said = work.at_once({mask: f"umask {mask}; {submit} -o {mask}.out job.sh" for mask in masks})
    for mask in masks:
        assert said[mask].split() == [mask, mask, mask, f"{0o666 & ~int(mask, 8):o}"]
