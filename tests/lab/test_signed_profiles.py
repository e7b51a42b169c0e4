"""Signed images on the lab, whose nodes have no network: a good one starts, and others submit no job.

Carol has Berth to herself, so that the settings of the lab's site stay as they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes.signing import public_pem, signing_key
from tests.lab.personal import CAROL, NODE, Carol

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.site.deploy import Site

OWN = "~/.config/berth ~/.local/state/berth ~/.local/share/berth ~/signed"
IMAGE = "~/signed/store/base/1/image.sif"
LIMIT_S = "100"


@pytest.fixture(scope="module")
def carol(site: Site, image: str) -> Iterator[Carol]:
    """Carol with a store of her own, which has the lab's image as base@1, and a signer."""
    made = Carol(site.lab)
    source = site.lab.sh(f"ls -d /profiles/{image}/*").split()[-1]
    settings = {
        "profiles": {
            "stores": ["~/signed/store"],
            "require_signature": True,
            "signers": [{"name": "team", "public_key": public_pem(signing_key())}],
        },
        "slurm": {"options": ["--mem=1G"]},
    }
    made.sh(
        f"rm -rf {OWN}; mkdir -p ~/.config/berth ~/signed/store/base; cp -r {source} ~/signed/store/base/1;"
        ' cd ~/signed/store/base/1; sed -i \'s/"version": *"[^"]*"/"version": "1"/g\' image.json'
    )
    site.lab.run(
        ["sh", "-c", "cat >~/.config/berth/config.yaml"], user=CAROL, node=NODE, stdin=json.dumps(settings).encode()
    )
    yield made
    for line in made.ok("list").splitlines()[1:]:
        made.ok("stop", line.split()[0])
        made.ok("delete", line.split()[0], "--yes")
    made.kill()
    made.sh(f"rm -rf {OWN}")


def sign(carol: Carol, seed: int) -> subprocess.CompletedProcess[bytes]:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - of this test alone
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pem = signing_key(seed).key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    carol.lab.run(["sh", "-c", "umask 077; cat >~/signed/key"], user=CAROL, node=NODE, stdin=pem)
    return carol.berth("profile", "sign", "base@1", "--key", "signed/key")


def refusal(carol: Carol) -> str:
    """The message of a start that is refused with exit code 1, and without a job."""
    done = carol.berth("start", "dev", "--profile", "base", "--timeout", LIMIT_S)
    assert done.returncode == 1, done.stderr.decode()
    assert carol.sh("squeue -h --me") == ""
    return done.stderr.decode()


def test_only_the_signed_image_starts(carol: Carol) -> None:
    assert carol.lab.sh("ip route show default", node=NODE) == ""
    assert "base@1 is not signed" in refusal(carol)
    assert b"belongs to none of the signers" in sign(carol, 2).stderr
    assert "base@1 is not signed" in refusal(carol)

    signed = sign(carol, 1)
    assert signed.returncode == 0, signed.stderr.decode()
    assert b"signed by team" in carol.berth("profile", "verify", "base").stderr
    carol.ok("start", "dev", "--profile", "base", "--timeout", LIMIT_S)
    assert carol.ok("exec", "dev", "--", "sh", "-c", "echo inside").strip() == "inside"
    carol.ok("stop", "dev")
    carol.ok("delete", "dev", "--yes")

    carol.sh(f"cp {IMAGE} ~/signed/good; printf object >>{IMAGE}")
    assert "6 bytes more than team has signed" in refusal(carol)
    carol.sh(
        f"cp ~/signed/good {IMAGE}; cd ~/signed/store/base/1; end=$(($(stat -c %s image.sif) - 1));"
        " printf x | dd of=image.sif bs=1 seek=$end conv=notrunc status=none; touch -r ~/signed/good image.sif"
    )
    assert "its digest differs" in refusal(carol)
    carol.sh(f"cp ~/signed/good {IMAGE}")
    carol.ok("start", "dev", "--profile", "base", "--timeout", LIMIT_S)
