"""`berth profile diff`: what differs between two images."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.content_changes import print_change, print_content_changes
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.inventory import load_inventory
from broker.cli.params import ProfileName
from broker.cli.stores import catalog_of, profile_errors, store_option
from broker.format import format_size, pluralize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.user_input import ProfileReference
    from profiles.image.store import Image
    from profiles.inventory.difference import ContentChange
    from profiles.recipe.setting_difference import SettingChange


@click.command("diff")
@click.argument("before", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.argument("after", type=ProfileName(), metavar="PROFILE[@VERSION]")
@store_option
@json_option
@pass_invocation
def profile_diff(invocation: Invocation, before: ProfileReference, after: ProfileReference, store: Path | None) -> None:
    """Compare two images.

    Shows packages, executables that no package owns, settings of the recipes, and the sizes. Each line has A for added,
    M for modified or D for deleted, a tab, and what it is. A `file` is modified if its content is another.

    \b
      berth profile diff mine@1 mine@2
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    with profile_errors():
        from profiles.inventory.difference import compare_inventories
        from profiles.recipe.setting_difference import compare_settings

        catalog = catalog_of(invocation, store)
        images = [catalog.find(each.name, each.version) for each in (before, after)]
        inventories = [load_inventory(invocation, image)[0] for image in images]
        content = compare_inventories(*inventories)
        settings = compare_settings(images[0].profile, images[1].profile)
    if invocation.json:
        output.print_json(
            {
                "before": _image(images[0]),
                "after": _image(images[1]),
                "packages": [asdict(each) for each in content if each.kind != "file"],
                "files": [_file(each) for each in content if each.kind == "file"],
                "settings": [asdict(each) for each in settings],
            }
        )
    else:
        _print(images, content, settings)


def _image(image: Image) -> dict[str, object]:
    return {"name": image.name, "version": image.version, "digest": image.digest, "size": image.size}


def _file(change: ContentChange) -> dict[str, str]:
    return {"path": change.name, "before": change.before, "after": change.after}


def _print(images: Sequence[Image], content: Sequence[ContentChange], settings: Sequence[SettingChange]) -> None:
    print_content_changes(content)
    for setting in settings:
        print_change(f"setting {setting.key}", setting.before, setting.after)
    files = sum(each.kind == "file" for each in content)
    first, second = (f"{image.name}@{image.version}" for image in images)
    output.print_note(
        f"{first} -> {second}: {pluralize(len(content) - files, 'package')}, {pluralize(files, 'file')} and "
        f"{pluralize(len(settings), 'setting')} changed; {format_size(images[0].size)} -> {format_size(images[1].size)}"
    )
