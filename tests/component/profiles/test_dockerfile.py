"""Dockerfiles and features of dev containers, built by buildah, and what is in the images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.build import network
from profiles.build.buildah import check_buildah
from profiles.build.image_store import STORE_PREFIX, layer_store
from profiles.build.namespace import remove_as_root
from profiles.devcontainer.config import read_dev_config
from profiles.devcontainer.feature_registry import FeatureRegistries
from profiles.devcontainer.plan import load_image_part
from profiles.dockerfile.spec import DockerfileBuild
from profiles.errors import ProfilesError
from tests.buildah_machine import (
    FROM_BASE,
    BuildMachine,
    build_machine,
    dockerfile,
    file_in,
    listed,
    read_layout,
    run_as_ordinary_user,
    write_base,
)  # fmt: skip
from tests.unit.profiles.dev_features import write_feature

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def machine() -> Iterator[BuildMachine]:
    with build_machine() as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context with the smallest system there is."""
    write_base(tmp_path)
    return tmp_path


class TestDockerfile:
    def test_stages_arguments_owners_and_settings(self, machine: BuildMachine, context: Path) -> None:
        text = (
            f"{FROM_BASE}RUN echo one >/one\nFROM scratch AS built\nADD base.tar /\nARG FLAVOUR=plain\n"
            "COPY --from=0 --chown=42:60000 /one /two\nENV WHERE=image FLAVOUR=$FLAVOUR\nUSER 42\nWORKDIR /srv/here\n"
            'ENTRYPOINT ["/bin/sh"]\nEXPOSE 8080\nRUN id && cat /two && echo "flavour $FLAVOUR in $PWD"\n'
            "FROM built AS not-wanted\nRUN false\n"
        )
        with machine.buildah() as buildah:
            image = buildah.build(dockerfile(context, text, target="built", args={"FLAVOUR": "sweet"}))
            layout = buildah.export(image)
            settings = read_layout(layout).config.settings
            owners = listed(layout, "two")
        assert any("uid=42" in line for line in machine.lines)
        assert "flavour sweet in /srv/here" in machine.lines
        assert {"WHERE=image", "FLAVOUR=sweet"} <= set(settings["Env"])
        assert (settings["User"], settings["WorkingDir"]) == ("42", "/srv/here")
        assert list(settings["ExposedPorts"]) == ["8080/tcp"]
        assert owners == [(42, 60000)]

    def test_second_build_runs_no_step_and_a_change_only_what_follows(
        self, machine: BuildMachine, context: Path
    ) -> None:
        text = f"{FROM_BASE}RUN echo first\nCOPY data /data\nRUN cat /data\n"
        (context / "data").write_text("a")
        (context / "README").write_text("a")
        machine.build(dockerfile(context, text))
        assert "RUN echo first" in machine.ran
        (context / "README").write_text("changed")
        machine.build(dockerfile(context, text))
        assert machine.ran == []
        (context / "data").write_text("changed")
        machine.build(dockerfile(context, text))
        assert machine.ran == ["COPY data /data", "RUN cat /data"]

    def test_ignored_file_is_not_there(self, machine: BuildMachine, context: Path) -> None:
        (context / ".dockerignore").write_text("*\n!base.tar\n!seen\n")
        for name in ("seen", "secret.pem"):
            (context / name).write_text(name)
        machine.build(dockerfile(context, f"{FROM_BASE}COPY . /src/\nRUN ls -a /src\n"))
        assert "seen" in machine.lines
        assert "secret.pem" not in machine.lines

    def test_secret_is_seen_by_one_step_and_is_not_in_the_image(self, machine: BuildMachine, context: Path) -> None:
        (context / "token").write_text("open sesame")
        (context / ".dockerignore").write_text("token\n")
        reads = 'test "$(sed s/o/0/ /run/secrets/key)" = "0pen sesame"'
        text = f"{FROM_BASE}RUN --mount=type=secret,id=key {reads}\nRUN ! {reads}\n"
        with machine.buildah() as buildah:
            layout = buildah.export(buildah.build(dockerfile(context, text, secrets={"key": context / "token"})))
            content = b"".join(path.read_bytes() for path in layout.rglob("*") if path.is_file())
        assert b"open sesame" not in content

    def test_run_sees_neither_home_nor_processes_of_the_machine(self, machine: BuildMachine, context: Path) -> None:
        own = Path.home() / f"berth-test-{os.getpid()}"
        own.write_text("private")
        try:
            look = f"ls /proc/1/root{own} /proc/1/root/home 2>&1; echo processes /proc/[0-9]*; test ! -e {own}"
            machine.build(dockerfile(context, f"{FROM_BASE}RUN {look}\n"))
        finally:
            own.unlink()
        shown = [line for line in machine.lines if own.name in line and "STEP" not in line]
        assert all("No such file" in line or "Permission denied" in line for line in shown)
        [processes] = [line for line in machine.lines if line.startswith("processes ")]
        assert len(processes.split()) < 12

    def test_run_cannot_change_settings_of_the_machine(self, machine: BuildMachine, context: Path) -> None:
        """Not even a build of root, whose kernel settings these are."""
        machine.build(dockerfile(context, f"{FROM_BASE}RUN echo mounts $(sed -n 's,^[^ ]* /sys ,,p' /proc/mounts)\n"))
        [mounts] = [line for line in machine.lines if line.startswith("mounts ")]
        options = mounts.split()[2::4]
        assert options
        assert all(each.split(",")[0] == "ro" for each in options)


class TestFailures:
    def failure(self, machine: BuildMachine, build: DockerfileBuild) -> ProfilesError:
        with pytest.raises(ProfilesError) as caught:
            machine.build(build)
        return caught.value

    def test_failed_step_is_named_with_its_line_and_its_last_words(self, machine: BuildMachine, context: Path) -> None:
        """buildah 1.28 sometimes loses the output of a program that fails at once: then the exit code is named."""
        text = f"{FROM_BASE}RUN true\n\n# why not\nRUN true; \\\n  echo no such planet >&2; exit 7\n"
        error = self.failure(machine, dockerfile(context, text))
        assert error.message.startswith(f"{context}/Dockerfile:6: RUN true; echo no such planet")
        assert error.message.endswith(("failed: no such planet", "failed: exit status 7"))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("FROM scratch\nCOPY missing /x\n", "Dockerfile:2: COPY missing /x failed"),
            ("FROM scratch\nNONSENSE x\n", "Unknown instruction"),
            ("FROM scratch\nCOPY ../x /x\n", "Dockerfile:2"),
            ("FROM not.there.invalid/x:1\n", "not.there.invalid"),
            ("FROM scratch AS a\nCOPY --from=b /x /x\n", "failed"),
            ("FROM ${NOTHING}\n", "failed"),
        ],
    )
    def test_wrong_dockerfile_is_refused_in_words(
        self, machine: BuildMachine, context: Path, text: str, said: str
    ) -> None:
        error = self.failure(machine, dockerfile(context, text))
        assert said in error.message
        assert str(context / "Dockerfile") in error.message

    def test_missing_target_is_named(self, machine: BuildMachine, context: Path) -> None:
        assert "nowhere" in self.failure(machine, dockerfile(context, FROM_BASE, target="nowhere")).message

    def test_missing_buildah_is_named_with_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(network, "PATH", "/nowhere")
        with pytest.raises(ProfilesError) as caught:
            check_buildah()
        assert "in Debian: buildah" in caught.value.hint


class TestOrdinaryUser:
    """The same without root: the tests run as root, and the builds as root of a user's namespace."""

    @pytest.fixture
    def room(self) -> Iterator[Path]:
        place = Path("/var/tmp") / f"berth-user-{os.getpid()}"  # noqa: S108 - mode 0700
        place.mkdir(mode=0o700)
        write_base(place)
        (place / "base.tar").chmod(0o644)
        yield place
        remove_as_root(place)

    def test_owners_are_kept_and_one_that_the_user_cannot_have_is_said_in_words(self, room: Path) -> None:
        def work() -> None:
            machine = BuildMachine(room)
            kept = dockerfile(
                room, f"{FROM_BASE}COPY --chown=42:60000 base.tar /two\nRUN chown 65536 /two; ls -n /two\n"
            )
            machine.build(kept)
            assert any("65536" in line and "60000" in line for line in machine.lines), machine.lines
            for line in ("RUN chown 4204260 /bin", "COPY --chown=4204260:1 base.tar /x"):
                with pytest.raises(ProfilesError) as caught:
                    machine.build(dockerfile(room, f"{FROM_BASE}{line}\n"))
                assert "owners of files can be 0 to 65536 for you" in caught.value.hint, caught.value.message

        run_as_ordinary_user(room, work)


class TestStore:
    def test_second_build_at_once_has_a_store_of_its_own(self, tmp_path: Path) -> None:
        with layer_store(tmp_path, tmp_path / "spare") as first, layer_store(tmp_path, tmp_path / "other") as second:
            assert first.folder == tmp_path / f"{STORE_PREFIX}{os.geteuid()}"
            assert second.folder == tmp_path / "other"

    @pytest.mark.parametrize("how", ["link", "open", "file"])
    def test_store_that_others_could_change_is_refused(self, tmp_path: Path, how: str) -> None:
        place = tmp_path / f"{STORE_PREFIX}{os.geteuid()}"
        if how == "link":
            place.symlink_to(tmp_path)
        elif how == "open":
            place.mkdir()
            place.chmod(0o777)
        else:
            place.touch()
        with pytest.raises(ProfilesError, match="not a directory of yours"), layer_store(tmp_path, tmp_path / "spare"):
            raise AssertionError


class TestFeatures:
    """A repository with a Dockerfile, a local feature and another one that depends on it (acceptance cases 1 and 2)."""

    @pytest.fixture
    def repository(self, context: Path) -> Path:
        folder = context / ".devcontainer"
        folder.mkdir()
        (context / "base.tar").rename(folder / "base.tar")
        (folder / "Dockerfile").write_text(f"{FROM_BASE}ENV PATH=/bin\n")
        compiler = {"version": {"type": "string", "default": "1"}, "with-tests": {"type": "boolean", "default": False}}
        script = 'echo "compiler $VERSION $WITH_TESTS for $_REMOTE_USER" >>/order\n'
        write_feature(folder / "compiler", script, options=compiler, containerEnv={"CC": "/opt/cc"})
        script = 'echo "runtime with $CC" >>/order; cp data /data\n'
        runtime = write_feature(folder / "runtime", script, dependsOn={"./compiler": {"version": "2"}})
        (runtime / "data").write_text("data")
        data = {"build": {"dockerfile": "Dockerfile"}, "features": {"./runtime": {}}}
        (folder / "devcontainer.json").write_text(json.dumps(data))
        return context

    def bring(self, machine: BuildMachine, repository: Path) -> str:
        """Build, and return what the features have written."""
        config = read_dev_config(repository / ".devcontainer/devcontainer.json")
        part = load_image_part(config, FeatureRegistries())
        with machine.buildah() as buildah:
            assert isinstance(part.base, DockerfileBuild)
            layout = buildah.export(buildah.add_features(buildah.build(part.base), part.features))
            return file_in(layout, "order")

    def test_features_are_installed_in_order_with_their_options_and_once(
        self, machine: BuildMachine, repository: Path
    ) -> None:
        expected = "compiler 2 false for root\nruntime with /opt/cc\n"
        assert self.bring(machine, repository) == expected
        assert self.bring(machine, repository) == expected
        assert machine.ran == []
        (repository / "README").write_text("changed")
        self.bring(machine, repository)
        assert machine.ran == []
        with (repository / ".devcontainer/runtime/install.sh").open("a") as file:
            file.write("echo more >>/order\n")
        assert self.bring(machine, repository) == f"{expected}more\n"
        assert [line.split()[0] for line in machine.ran] == ["COPY", "RUN", "LABEL"]
        assert all("1" in line for line in machine.ran)

    def test_failed_feature_is_named_with_its_last_words(self, machine: BuildMachine, repository: Path) -> None:
        script = repository / ".devcontainer/compiler/install.sh"
        script.write_text("#!/bin/sh\necho no compiler today >&2\nexit 3\n")
        with pytest.raises(ProfilesError, match=r"install.sh of the feature ./compiler failed: no compiler today"):
            self.bring(machine, repository)
