"""The machine as a user's laptop: a key of its own, and a stock ssh that reaches sessions through a published port."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.site.deploy import SiteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.site.deploy import Site


@dataclass(frozen=True, slots=True)
class Laptop:
    """One user's ssh configuration on this machine."""

    config: Path

    @classmethod
    def of(cls, site: Site, user: str, directory: Path, port: int) -> Laptop:
        """Make, or take, a key in `directory`, let it in, and write ssh_config and known_hosts beside it."""
        directory.mkdir(parents=True, exist_ok=True)
        key = (directory / f"{user}_key").resolve()
        if not key.exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{user}@laptop", "-f", str(key)]
            subprocess.run(make, check=True, timeout=30)
        public = key.with_name(key.name + ".pub").read_bytes()
        if public.split()[1].decode() not in site.run(["cat", "/dev/null"], user=user).stdout.decode():
            site.run(["berth", "key", "add", "-"], user=user, stdin=public)
        config, known_hosts = directory / "ssh_config", directory / "known_hosts"
        for file, option in ((known_hosts, "--known-hosts"), (config, "--config")):
            done = site.run(
                ["berth", "ssh-config", "--via", "gateway", option]
                + [f"--gateway-host=127.0.0.1", f"--gateway-port={port}", f"--identity-file={key}"]
                + [f"--known-hosts-file={known_hosts.resolve()}"],
                user=user,
            )
            if done.returncode != 0:
                raise SiteError(f"berth ssh-config failed: {done.stderr.decode(errors='replace')}")
            file.write_bytes(done.stdout)
        return cls(config)

    def argv(self, session: str, command: Sequence[str] = (), *, options: Sequence[str] = ()) -> list[str]:
        """The ssh command line."""
        return ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", *options, f"{session}.berth", "--", *command]

    def ssh(
        self, session: str, script: str, *, seconds: float = 30, stdin: bytes = b"", options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell script in a session."""
        argv = self.argv(session, [script], options=options)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)
