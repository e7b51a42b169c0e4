"""`berth profile`: build images from profiles, and manage these images."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.build_result import import_report, print_build
from broker.cli.commands.profile_commit import commit
from broker.cli.commands.profile_deprecate import deprecate
from broker.cli.commands.profile_diff import profile_diff
from broker.cli.commands.profile_export import export
from broker.cli.commands.profile_history import profile_history
from broker.cli.commands.profile_promote import promote
from broker.cli.commands.profile_pull import pull
from broker.cli.commands.profile_push import push
from broker.cli.commands.profile_rebuild import profile_rebuild
from broker.cli.commands.profile_retire import retire
from broker.cli.commands.profile_rollback import profile_rollback
from broker.cli.commands.profile_sbom import sbom
from broker.cli.commands.profile_sign import sign
from broker.cli.commands.profile_test import profile_test
from broker.cli.commands.profile_verify import verify
from broker.cli.commands.profile_vulns import vulns
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.resources import ResourceCommand
from broker.cli.signatures import assess_signature, key_for_build, sign_key_option, signature_json
from broker.cli.stores import (
    bases_of,
    catalog_of,
    image_json,
    note_target,
    profile_errors,
    standing_json,
    standing_words,
    store_option,
    target_of,
    target_option,
)
from broker.cli.verdicts import rebuild_json, verdict_json
from broker.errors import (
    BerthError,
    ConflictError,
    ControllerUnavailableError,
    InvalidInputError,
    NotFoundError,
)

if TYPE_CHECKING:
    from broker.user_input import ProfileReference
    from profiles.image.catalog import Catalog
    from profiles.image.store import Image

profile_argument = click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")


@click.group()
def profile() -> None:
    """Build images from profiles, and look after them."""


profile.add_command(commit)
profile.add_command(sign)
profile.add_command(verify)
profile.add_command(profile_diff)
profile.add_command(sbom)
profile.add_command(vulns)
profile.add_command(push)
profile.add_command(pull)
profile.add_command(export)
profile.add_command(promote)
profile.add_command(profile_rollback)
profile.add_command(deprecate)
profile.add_command(retire)
profile.add_command(profile_history)
profile.add_command(profile_test)
profile.add_command(profile_rebuild)


@profile.command(cls=ResourceCommand, context_settings={"ignore_unknown_options": True})
@click.argument("recipe", metavar="FILE|NAME")
@click.argument("resources", nargs=-1, type=click.UNPROCESSED, metavar="[SBATCH OPTIONS]...")
@target_option
@sign_key_option
@click.option(
    "--job/--here",
    "in_job",
    default=None,
    help="Build in a Slurm job, or on this machine. Default: the site's choice.",
)
@click.option("--no-cache", is_flag=True, help="Run all steps, also those that an earlier build has run.")
@json_option
@pass_invocation
def build(
    invocation: Invocation,
    recipe: str,
    resources: tuple[str, ...],
    store: Path | None,
    sign_key: Path | None,
    *,
    in_job: bool | None,
    no_cache: bool,
) -> None:
    """Build an image and publish it.

    From the profile in FILE, or from the one of that NAME that comes with Berth. It runs as you, and takes minutes. All
    faults of the profile are reported before the build begins. A version that is published already is never
    overwritten: if nothing that the build reads has changed, the command says so and builds nothing. Steps that one of
    your builds has run here in the last day are not run again, up to the first one that has changed.

    Everybody can start the images of the site's stores, and only you those of your own. Bases are searched in all of
    them, wherever the image is published.

    With --job, the build runs in a Slurm job. The command shows its output and ends with its exit code. Options of
    sbatch come after FILE:

    \b
      berth profile build mine.yaml --job --mem=8G --time=1:00:00
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    with profile_errors():
        from broker.cli.builds import BuildCommand, build_profile

        target = target_of(invocation, store)
        as_job = invocation.config.profiles.build_in_job if in_job is None else in_job
        wanted = BuildCommand(_recipe(recipe), target, bases_of(invocation, target), sign_key, use_cache=not no_cache)
        options = wanted.job_options(invocation, resources, in_job=as_job)
        note_target(invocation, store, target)
        key = None if sign_key is None else key_for_build(invocation, sign_key, wanted.recipe, target, ask=not as_job)
        result = build_profile(invocation, wanted, key, options)
    print_build(invocation, result, sign_key)


@profile.command()
@click.argument("recipe", metavar="FILE|NAME")
@json_option
@pass_invocation
def check(invocation: Invocation, recipe: str) -> None:
    """Check a profile without building it.

    Reports all faults of the profile in FILE, or of the one of that NAME that comes with Berth, and whether its base
    image exists. Exit code 2 if the profile is invalid, 3 without its base.
    """
    with profile_errors():
        from broker.cli.registries import site_registries
        from broker.profile_options import check_profile_option
        from profiles.build.bases import find_base
        from profiles.recipe.spec import load_profile

        checked = load_profile(_recipe(recipe), check_profile_option)
        find_base(checked, catalog_of(invocation), site_registries(invocation))
    if invocation.json:
        output.print_json({"ok": True, "name": checked.name, "version": checked.version})
    else:
        output.print_note(f"the profile {checked.name}@{checked.version} is valid")


@profile.command("list")
@store_option
@json_option
@pass_invocation
def list_profiles(invocation: Invocation, store: Path | None) -> None:
    """List the images for sessions.

    OWNER is `site`, or `own` for your own images, which only you can start. CHANNEL names the channels of a version:
    the name alone means `stable`, or else the version marked `newest`. Deprecated and retired versions say so. If the
    site and you have the same name, start `site/NAME` or `own/NAME`.
    """
    from broker.format import format_size, format_time

    with profile_errors():
        from profiles.recipe.shipped import shipped_profiles

        catalog = catalog_of(invocation, store)
        contents = catalog.contents()
    images = [(owner, image) for owner, each in contents.items() for image in each.images]
    images.sort(key=lambda each: each[1].name)  # the versions of an owner are in their order
    damaged = [error.message for each in contents.values() for error in each.damaged]
    standings = catalog.standings([image for _, image in images])
    if invocation.json:
        listed = [
            image_json(image, owner) | standing_json(standing)
            for (owner, image), standing in zip(images, standings, strict=True)
        ]
        output.print_json({"profiles": listed, "damaged": damaged})
        return
    output.print_table(
        ("NAME", "VERSION", "OWNER", "CHANNEL", "SIZE", "PACKAGES", "BUILT", "DESCRIPTION"),
        [
            (
                image.name,
                image.version,
                owner,
                standing_words(standing),
                format_size(image.size),
                "" if image.packages is None else str(sum(image.packages.values())),
                format_time(image.created),
                image.profile.description,
            )
            for (owner, image), standing in zip(images, standings, strict=True)
        ],
    )
    for message in damaged:
        output.print_note(f"damaged: {message}")
    if unbuilt := sorted(shipped_profiles().keys() - {image.name for _, image in images}):
        output.print_note(f"Not built yet: {', '.join(unbuilt)}. `berth profile build {unbuilt[0]}` builds one.")


@profile.command()
@profile_argument
@store_option
@json_option
@pass_invocation
def show(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> None:
    """Show the recipe of an image.

    With all defaults, and the image's owner, digest, labels, path and signature. For an image whose base is a container
    image, also what was taken from that, changed or ignored, and why. Also its channels and state, the verdict of
    `berth profile test`, and what a rebuild has changed.
    """
    with profile_errors():
        catalog = catalog_of(invocation, store)
        image = catalog.find(wanted.name, wanted.version)
        owner = catalog.owner_of(image)
        signature = signature_json(assess_signature(invocation, image, owner))
        (standing,) = catalog.standings([image])
        shown = image_json(image, owner) | standing_json(standing) | {"signature": signature}
        shown |= import_report(image) | verdict_json(image) | rebuild_json(image)
    if invocation.json:
        output.print_json(shown)
        return
    import yaml

    from broker.format import format_date

    described = shown | {"created": format_date(image.created)}
    output.write(yaml.safe_dump(described, sort_keys=False, allow_unicode=False))
    if standing.state is not None:
        output.print_note(standing.state.describe(f"{image.name}@{image.version}"))


@profile.command()
@profile_argument
@store_option
@click.option("--yes", is_flag=True, help="Do not ask. Required without a terminal.")
@click.option("--force", is_flag=True, help="Delete it also if your sessions use it, without asking the controller.")
@json_option
@pass_invocation
def delete(invocation: Invocation, wanted: ProfileReference, store: Path | None, *, yes: bool, force: bool) -> None:
    """Delete one version of a profile's image.

    Stop all sessions that use it first: on a network file system, running sessions break without it. The command
    refuses while one of your own sessions uses it; it does not check other users' sessions. Sessions with this image
    cannot be started again.
    """
    if wanted.version is None:
        raise InvalidInputError(
            f"the version of {wanted.name} is missing", hint="use NAME@VERSION; `berth profile list` shows the versions"
        )
    with profile_errors():
        from profiles.image.channel_changes import check_unnamed
        from profiles.image.store import Image, Store

        catalog = catalog_of(invocation, store)
        image = _image_to_delete(catalog, wanted, wanted.version)
        place = image.directory if isinstance(image, Image) else image
        digest = image.digest if isinstance(image, Image) else ""
        holder = Store(place.parent.parent)
        holder.check_writable(place.parent.name)
        check_unnamed(holder, place.parent.name, place.name)
        if isinstance(image, Image) and not force:
            _require_unused(invocation, image)
        if not yes and not _confirm_deletion(wanted, place):
            raise BerthError(f"{wanted} was not deleted")
        holder.delete(place.parent.name, place.name)
    if invocation.json:
        output.print_json({"deleted": str(wanted), "digest": digest})
    else:
        output.print_note(f"deleted {wanted}")


def _image_to_delete(catalog: Catalog, wanted: ProfileReference, version: str) -> Image | Path:
    """Return the image, or the directory of one that is damaged: nothing tells which sessions use it.

    InvalidInputError if the site and the user have it, also if both are the same image.
    """
    from profiles.errors import DamagedImageError
    from profiles.image.catalog import split_owner

    holders = catalog.holders(wanted.name, version)
    if len({owner for owner, _ in holders}) > 1:
        raise InvalidInputError(
            f"the site and you each have {wanted}", hint=f"say which to delete: site/{wanted} or own/{wanted}"
        )
    try:
        return catalog.find(wanted.name, version)
    except DamagedImageError:
        if len(holders) != 1:
            raise
        return holders[0][1].path / split_owner(wanted.name)[1] / version


def _require_unused(invocation: Invocation, image: Image) -> None:
    """Raise ConflictError while one of the caller's sessions may have the image mounted."""
    from broker.schema.states import LIVE

    try:
        sessions = invocation.client.sessions()
    except ControllerUnavailableError as error:
        raise ControllerUnavailableError(
            f"cannot tell whether sessions use {image.name}@{image.version}: {error.message}",
            hint="--force deletes it without this check",
        ) from error
    if users := [view.name for view in sessions if view.digest == image.digest and view.state in LIVE]:
        raise ConflictError(
            f"{image.name}@{image.version} is in use: {', '.join(users)}",
            hint=f"`berth stop {users[0]}` first; --force deletes it anyway, which may break running sessions",
        )


def _confirm_deletion(wanted: ProfileReference, place: Path) -> bool:
    if not output.is_terminal(sys.stdin):
        raise InvalidInputError(
            f"{wanted} was not deleted: there is no terminal to ask at",
            hint="--yes deletes without a question",
        )
    from broker.cli.questions import ask_yes_no

    return ask_yes_no(f"Delete {place}? Running sessions that use it may break, and none can be started again.")


def _recipe(word: str) -> Path:
    """Return the path of the profile `word`: a file, a directory with a profile.yaml, or a shipped profile."""
    import difflib

    from profiles.recipe.shipped import shipped_profiles
    from profiles.userfile import is_file

    if word.startswith("-"):
        raise InvalidInputError(f"there is no option {word}", hint="options of sbatch come after the profile")
    path = Path(word)
    if is_file(path / "profile.yaml"):
        return path / "profile.yaml"
    if is_file(path) or "/" in word:
        return path
    known = shipped_profiles()
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, known, n=1)
    raise NotFoundError(
        f"there is no file {word}, and no shipped profile of that name",
        hint=f"did you mean {near[0]}?" if near else f"shipped profiles: {', '.join(known)}",
    )
