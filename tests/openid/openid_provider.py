"""A real OpenID provider for tests: the npm package oidc-provider, run by the Node.js of the npm package of that name.

Both come from the lock file beside this module. They are installed once, in the cache of the lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joserfc.jwk import ECKey, RSAKey

from tests.npm_tree import NODE, npm_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
PROVIDER = "provider.mjs"
CLIENT, SECRET = "berth-test", "the secret of the client"


def installed() -> Path:
    """Return the directory with the provider and Node.js, installed with npm if they are not in the cache."""
    return npm_tree("openid", HERE, [PROVIDER])


def rsa_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "alg": "RS256", "use": "sig"})


def ec_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "alg": "ES256", "use": "sig"})


@dataclass
class OpenIdProvider:
    """A provider on 127.0.0.1, at `port`, or at any that is free for 0.

    Its users log in by their names alone, as the subject of that name.
    """

    port: int
    redirect: str
    issuer: str
    logout: str = ""
    secret: str = SECRET
    keys: Sequence[RSAKey | ECKey] = field(default_factory=lambda: [rsa_key("first")])
    """Private keys. The provider signs with the first, and publishes all."""
    claims: dict[str, Any] = field(default_factory=dict)
    """The same claims of all users."""

    @contextlib.contextmanager
    def running(self, prefix: Sequence[str | Path] = ()) -> Iterator[None]:
        """Run the provider for the time of the block. `prefix`: a command that runs it elsewhere."""
        place = installed()
        settings = {
            "issuer": self.issuer,
            "port": self.port,
            "client": CLIENT,
            "secret": self.secret,
            "redirect": self.redirect,
            "logout": self.logout,
            "jwks": {"keys": [key.as_dict(private=True) for key in self.keys]},
            "claims": self.claims,
        }
        command = [*prefix, place / NODE, place / PROVIDER, json.dumps(settings)]
        environment = {"PATH": os.environ["PATH"], "NODE_ENV": "production"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            try:
                assert process.stdout is not None
                while not (line := process.stdout.readline()).startswith("listens "):
                    assert line, "the OpenID provider has not started"
                self.port = int(line.split()[1])
                yield
            finally:
                process.kill()
