"""The shipped profile for work on Intel GPUs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab import images
from tests.lab.images import inside
from tests.lab.test_web_services import fetch, opened

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.lab_cluster import Lab


@pytest.fixture(scope="module")
def triton_image(lab: Lab) -> str:
    """The image of the shipped profile for Intel GPUs, from the site's store."""
    return images.published(lab, "triton-xpu")


def test_clinfo_finds_a_device_without_a_gpu(lab: Lab, triton_image: str) -> None:
    assert "Portable Computing Language" in inside(lab, triton_image, "clinfo -l")
    assert int(inside(lab, triton_image, "clinfo --raw | grep -c CL_DEVICE_NAME")) >= 1


def test_the_tools_are_there(lab: Lab, triton_image: str) -> None:
    tools = "gcc g++ clang lld cmake ninja ccache git gdb python3 pip pytest clinfo llvm-spirv spirv-as FileCheck-21 jq"
    assert len(inside(lab, triton_image, f"which {tools}").split()) == len(tools.split())


def test_a_level_zero_program_builds_and_finds_the_loader(lab: Lab, triton_image: str) -> None:
    program = "#include <level_zero/ze_api.h>\nint main(void) { return zeInit(0) == ZE_RESULT_SUCCESS; }"
    script = f"cd /tmp; echo '{program}' >a.c; gcc a.c -o a -lze_loader; ldd a; ls /usr/lib/*/libze_intel_gpu.so.1"
    shown = inside(lab, triton_image, script)
    assert "libze_loader.so.1 => /" in shown
    assert "libze_intel_gpu.so.1" in shown


def test_jupyterlab_of_a_session_is_opened(alice: User, triton_image: str, name: str) -> None:
    assert triton_image
    alice.ok("start", name, "--profile", "triton-xpu", "--mem=2G")
    with opened(alice, name, "jupyter") as url:
        status, page = fetch(alice, f"{url}lab")
        assert (status, "<title>JupyterLab</title>" in page) == (200, True)
        assert json.loads(fetch(alice, f"{url}api/kernelspecs")[1])["default"] == "python3"


def test_a_virtual_environment_can_be_made(lab: Lab, triton_image: str) -> None:
    assert inside(lab, triton_image, "python3 -m venv /tmp/v; /tmp/v/bin/pip --version").startswith("pip ")
