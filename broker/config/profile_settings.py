"""The settings of profiles: their stores, and who may sign their images."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, field_validator

from broker.config.image_registries import ImageRegistrySettings
from broker.config.section import Section
from broker.config.setting_types import AbsolutePath
from slurm.sbatch import check_options

MAX_SIGNERS = 100
MAX_PATTERNS = 100


def _date(value: object) -> object:
    """Accept a date of YAML, and text that is a date: no times, and no numbers of seconds."""
    if type(value) is date or value is None:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value, re.ASCII):
        return date.fromisoformat(value)
    raise ValueError("must be a date such as 2026-12-31")


def _key(text: str) -> str:
    if not text.startswith(("/", "-----BEGIN ")):
        raise ValueError("must be a key in PEM form, which begins with -----BEGIN, or the absolute path of a file")
    return text


def _store(text: str) -> str:
    if text not in {"site", "own"} and not text.startswith("/"):
        raise ValueError("must be `site`, `own`, or the absolute path of a store")
    return text


_NamePattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*-]{1,39}$")]
_Date = Annotated[date | None, BeforeValidator(_date)]


class SignerSettings(Section):
    """One signer of images: a key, and what it may sign."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@ -]{0,62}$")]
    """The signer's name, as commands show it; each name once."""
    public_key: Annotated[str, StringConstraints(max_length=8192), AfterValidator(_key)]
    """The public key, ed25519 or P-256, in PEM form; or the absolute path of a file with it, which users can read."""
    profiles: Annotated[list[_NamePattern], Field(min_length=1, max_length=MAX_PATTERNS)] = ["*"]
    """Names of the profiles that the key may sign; `*` stands for any characters, as in `triton-*`."""
    stores: Annotated[list[Annotated[str, AfterValidator(_store)]], Field(max_length=MAX_PATTERNS)] = []
    """Stores for which the key may sign: `site`, `own` (users' own), or one of `profiles.stores`; without entries, all
    of them."""
    valid_from: _Date = None
    """The first day, in UTC, on which the key may sign."""
    valid_until: _Date = None
    """The last day, in UTC, on which the key may sign. After it, no signature of the key counts."""

    @field_validator("valid_until")
    @classmethod
    def _check_order(cls, until: date | None, info: object) -> date | None:
        begin = getattr(info, "data", {}).get("valid_from")
        if until is not None and begin is not None and until < begin:
            raise ValueError("is before valid_from")
        return until


class ProfileSettings(Section):
    """The location of images, their signatures, data about vulnerabilities, and registries."""

    stores: list[AbsolutePath] = []
    """Directories with built profiles, searched in this order; the first is where `berth profile build` publishes. In
    site mode, users who may not write there publish in their own store, `<storage.root>/profiles`."""
    vulnerability_data: AbsolutePath | None = None
    """Directory with data about vulnerabilities, for `berth profile vulns`: files of OSV and of Debian's security
    tracker."""
    build_cache_gib: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Most GiB that the steps of a user's builds may keep on the disk of the machine that builds, in
    `$TMPDIR/berth-steps-UID`, for a day. 0 keeps none."""
    build_in_job: bool = False
    """Whether `berth profile build` builds in a Slurm job unless the user says `--here`."""
    build_options: list[str] = []
    """Default sbatch options of the jobs that build, as `--name=value`; users can override them."""
    require_signature: bool = False
    """Whether sessions start only from signed images: of the site's stores, not of users' own; in personal mode of all
    stores. Without it, an image still does not start if it was changed after a signer signed it."""
    signers: Annotated[list[SignerSettings], Field(max_length=MAX_SIGNERS)] = []
    """The keys whose signatures count, and what each of them may sign."""

    registries: Annotated[list[ImageRegistrySettings], Field(max_length=100)] = []
    """Registries that need settings; users reach all others with the system's certificate authorities."""

    @field_validator("build_options")
    @classmethod
    def _check_options(cls, options: list[str]) -> list[str]:
        check_options(options)
        return options

    @field_validator("registries")
    @classmethod
    def _check_hosts(cls, registries: list[ImageRegistrySettings]) -> list[ImageRegistrySettings]:
        hosts = [each.host for each in registries]
        if twice := next((host for host in hosts if hosts.count(host) > 1), None):
            raise ValueError(f"{twice} has two entries")
        return registries

    @field_validator("signers")
    @classmethod
    def _check_names(cls, signers: list[SignerSettings]) -> list[SignerSettings]:
        names = [signer.name for signer in signers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two signers are called {twice}")
        return signers
