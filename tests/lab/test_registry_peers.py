"""Other programs at a registry that has an image of Berth: oras, skopeo, cosign, and syft about its content."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.exchange.referrers import referrers_tag
from tests.lab.images import ROOM, published
from tests.registry_server import running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from subprocess import CompletedProcess

    from tests.lab_cluster import Lab

DIRECTLY = {"no_proxy": "localhost", "NO_PROXY": "localhost", "COSIGN_PASSWORD": ""}
SECONDS = 300.0
KEYS = f"{ROOM}/keys"
OFFLINE = ("--allow-http-registry", "--allow-insecure-registry")
VERIFY = ("--insecure-ignore-tlog", *OFFLINE)
SIGN = ("--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false", "--yes", *OFFLINE)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of the machine, which alice reaches on the login node with the machine's network."""
    with running_registry(tmp_path_factory.mktemp("registry")) as port:
        yield f"localhost:{port}"


def program(lab: Lab, *command: str) -> CompletedProcess[bytes]:
    return lab.run(command, user="alice", host_network=True, env=DIRECTLY, seconds=SECONDS)


def ok(lab: Lab, *command: str) -> str:
    done = program(lab, *command)
    assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def push(lab: Lab, image: str, target: str, *more: str) -> dict[str, Any]:
    pushed: dict[str, Any] = json.loads(ok(lab, "berth", "profile", "push", image, target, "--json", *more))
    return pushed


@pytest.fixture(scope="module")
def keys(lab: Lab, room: str) -> Sequence[str]:
    """Private keys of both kinds, each with a public one beside it, of which another one is not used."""
    assert room
    make = (
        "openssl genpkey -algorithm ed25519 -out ed25519.key; openssl genpkey -algorithm ed25519 -out other.key; "
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key"
    )
    public = "for each in *.key; do openssl pkey -in $each -pubout -out ${each%.key}.pem; done"
    lab.sh(f"umask 077; mkdir {KEYS}; cd {KEYS}; {make}; {public}", user="alice")
    return ("ed25519", "p256")


def verify(lab: Lab, name: str, key: str) -> tuple[bool, bool]:
    """Return True for the signature, and for the provenance, if cosign accepts it with this public key."""
    signature = program(lab, "cosign", "verify", "--key", f"{KEYS}/{key}.pem", *VERIFY, name)
    attested = ["cosign", "verify-attestation", "--key", f"{KEYS}/{key}.pem", "--type", "slsaprovenance1", *VERIFY]
    return signature.returncode == 0, program(lab, *attested, name).returncode == 0


def test_cosign_accepts_our_signature_and_provenance_and_keeps_those_of_others(
    lab: Lab, image: str, keys: Sequence[str], registry: str
) -> None:
    for key in keys:
        target = f"{registry}/team/{key}"
        pushed = push(lab, image, f"{target}:1", "--sign-key", f"{KEYS}/{key}.key")
        name = f"{target}@{pushed['digest']}"
        assert verify(lab, name, key) == (True, True)
        assert verify(lab, name, "other") == (False, False)
        tag = f"{target}:{referrers_tag(pushed['digest'])}.sig"
        before = ok(lab, "oras", "manifest", "fetch", "--plain-http", tag)
        push(lab, image, f"{target}:1", "--sign-key", f"{KEYS}/{key}.key")
        assert ok(lab, "oras", "manifest", "fetch", "--plain-http", tag) == before

    lab.sh(f"cd {KEYS}; COSIGN_PASSWORD= cosign generate-key-pair", user="alice")
    ok(lab, "cosign", "sign", "--key", f"{KEYS}/cosign.key", *SIGN, name)
    push(lab, image, f"{target}:1", "--sign-key", f"{KEYS}/other.key")
    theirs = program(lab, "cosign", "verify", "--key", f"{KEYS}/cosign.pub", *VERIFY, name)
    assert theirs.returncode == 0, theirs.stderr.decode()
    assert verify(lab, name, keys[-1]) == verify(lab, name, "other") == (True, True)


def test_oras_and_skopeo_find_the_image_and_what_is_attached(lab: Lab, image: str, room: str, registry: str) -> None:
    target = f"{registry}/team/plain:1"
    pushed = push(lab, image, target)
    found = json.loads(ok(lab, "oras", "discover", "--plain-http", "--format", "json", target))
    kinds = {each["artifactType"]: each["digest"] for each in found["referrers"]}
    assert {"application/vnd.cyclonedx+json", "application/spdx+json", "application/vnd.in-toto+json"} <= kinds.keys()
    repository = target.rpartition(":")[0]
    for kind, name in (
        ("application/vnd.cyclonedx+json", "sbom.cdx.json"),
        ("application/spdx+json", "sbom.spdx.json"),
    ):
        ok(lab, "oras", "pull", "--plain-http", "-o", f"{room}/pulled", f"{repository}@{kinds[kind]}")
        beside = published(lab, image).replace("image.sif", name)
        assert lab.sh(f"cmp {beside} {room}/pulled/{name} && echo same") == "same"
    ok(
        lab,
        "oras",
        "pull",
        "--plain-http",
        "-o",
        f"{room}/pulled",
        f"{repository}@{kinds['application/vnd.in-toto+json']}",
    )
    provenance = json.loads(lab.sh(f"cat {room}/pulled/provenance.json"))
    assert provenance["subject"] == [{"name": repository, "digest": {"sha256": pushed["digest"].partition(":")[2]}}]
    assert provenance["predicate"]["buildDefinition"]["externalParameters"]["profile"] == image

    ok(lab, "oras", "pull", "--plain-http", "-o", f"{room}/pulled", target)
    assert f"sha256:{lab.sh(f'sha256sum {room}/pulled/*.sif').split()[0]}" == pushed["image_digest"]
    copied = f"docker://{registry}/copied/base:1"
    ok(lab, "skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{target}", copied)
    got = json.loads(ok(lab, "berth", "profile", "pull", copied[9:], "--store", f"{room}/store", "--json"))
    assert (got["digest"], got["name"]) == (pushed["image_digest"], image)


def test_syft_finds_the_packages_of_our_inventory(lab: Lab, image: str, room: str) -> None:
    path = published(lab, image)
    offset = json.loads(lab.sh(f"cat {path.replace('image.sif', 'image.json')}"))["offset"]
    lab.sh(
        f"unsquashfs -no-progress -quiet -dest {room}/tree -offset {offset} {path} var/lib/dpkg etc usr/lib/os-release"
    )
    found = json.loads(
        ok(lab, "syft", "scan", f"dir:{room}/tree", "-q", "-o", "json", "--override-default-catalogers", "dpkg")
    )
    theirs = {(each["name"], each["version"]) for each in found["artifacts"] if each["type"] == "deb"}
    ours = json.loads(ok(lab, "berth", "profile", "sbom", image, "--json"))
    assert {(each["name"], each["version"]) for each in ours["packages"] if each["kind"] == "deb"} == theirs
    assert len(theirs) > 100
