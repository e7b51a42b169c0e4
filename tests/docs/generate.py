"""Write the pages of docs/reference that are made from the code, and wrap the prose of all pages.

test_docs.py fails when a generated page is stale. Run as `python -m tests.docs.generate` in the repository.
"""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_origin

import click
from pydantic import BaseModel

from broker.cli.app import berth
from broker.config import settings as config
from tests.docs import api_page, keys_page, man_pages, modules_page, sbatch_page
from tests.docs.fields import default, descriptions, kind
from tests.docs.wrap import WIDTH, wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PROSE = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
"""Every page, generated ones too."""

_CLI_HEAD = """\
# Command line

`make docs` generates this page from the program. Results go to stdout and all other output to stderr. All
[exit codes](exit-codes.md) are in one table. `--json` prints results as JSON on stdout. If the command fails, it prints
one object `{"error": {"reason", "message", "hint", "exit_code"}}` on stderr instead of a message. With `--json` there
is no progress output. Times are seconds since the epoch, sizes are bytes. [Sessions, day by day](../howto/sessions.md)
shows the commands in use.

| variable | meaning |
|---|---|
| `BERTH_CONFIG` | the configuration file, instead of /etc/berth/config.yaml |
| `BERTH_ENV` | the environment of `berth sbatch`, unless --env names one; it overrides the script's `#BERTH --env` |
| `BERTH_DEBUG` | if set, a fault in berth itself shows its traceback at once |
| `XDG_CONFIG_HOME`, `XDG_DATA_HOME`, `XDG_STATE_HOME`, `XDG_RUNTIME_DIR` | the directories of personal mode |

## Times and sizes

Options, arguments and [profiles](profile.md) take the same forms. As in Slurm, a bare number is minutes or MiB; only
`--timeout` takes a bare number as seconds. All units of sizes are powers of 1024.

| time | meaning |
|---|---|
| `90` | 90 minutes |
| `30s`, `15m`, `15min`, `4h`, `2d` | seconds, minutes, hours, days |
| `1h30m`, `1d12h`, `1.5h` | the sum of the parts; any part can have a fraction |
| `90:30` | 90 minutes and 30 seconds |
| `1:30:00` | hours, minutes and seconds |
| `2-12`, `2-12:30`, `2-12:30:00` | days, hours, minutes and seconds |

| size | meaning |
|---|---|
| `4096` | 4096 MiB |
| `512M`, `16G`, `1T` | MiB, GiB, TiB |
| `16GB`, `16GiB`, `1.5G` | the same units; a fraction is rounded up to whole MiB |

The API and [the configuration](config.md) have seconds and bytes.
"""

_CONFIG_HEAD = """\
# Configuration

`make docs` generates this page from the program. One YAML file holds all settings: `/etc/berth/config.yaml`, or the
file that `$BERTH_CONFIG` or `berth --config FILE` names. `berth config check FILE` checks a file, and
`berth config show` prints the settings in effect. Unknown settings are errors. Times are seconds.

Without such a file, Berth runs in personal mode: `runtime_dir` is `$XDG_RUNTIME_DIR/berth`, `state_dir` is
`~/.local/state/berth`, `profiles.stores` is `~/.local/share/berth/profiles`, and there is no gateway.
`~/.config/berth/config.yaml` can change all of these.

```yaml
storage:
  root: /shared/berth/{user}
slurm:
  options: ["--mem=4G"]
```

## General
"""


@cache
def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    reference = ROOT / "docs" / "reference"
    texts = {
        "api": api_page.page(),
        "sbatch-options": sbatch_page.page(),
        "tui-keys": keys_page.page(),
        "cli": "\n".join([_CLI_HEAD, *_command_sections()]),
        "modules": modules_page.page(ROOT),
        "config": "\n".join([_CONFIG_HEAD, *_setting_sections()]),
    }
    wrapped = {reference / f"{name}.md": wrap(text) for name, text in texts.items()}
    manual = man_pages.pages(ROOT, list(commands()))
    return {**wrapped, **manual, reference / "openapi.json": api_page.document_text()}


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command with its whole name, groups before what is in them."""
    names = berth.context_settings["help_option_names"]
    context = click.Context(
        berth, info_name="berth", terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=names
    )
    yield from _below(context)


def _below(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    yield context.command_path, context
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from _below(
                click.Context(command, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH)
            )


def _command_sections() -> Iterator[str]:
    for name, context in commands():
        yield f"## {name}\n\n```\n{context.command.get_help(context)}\n```\n"


def settings() -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every setting: its whole name, the section's class, the name in it. Sections come after the plain settings."""
    yield from _settings_below("", config.Config)


def entry_section(annotation: object) -> type[BaseModel] | None:
    """Return the class of the sections in a list of sections; None for another setting."""
    entry = next(iter(get_args(annotation)), None) if get_origin(annotation) is list else None
    return entry if isinstance(entry, type) and issubclass(entry, BaseModel) else None


def _settings_below(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel], str]]:
    within: list[tuple[str, type[BaseModel]]] = []
    for name, field in section.model_fields.items():
        inner = entry_section(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            within.append((f"{prefix}{name}.", field.annotation))
        else:
            yield prefix + name, section, name
        if inner is not None:
            within.append((f"{prefix}{name}.", inner))
    for below, model in within:
        yield from _settings_below(below, model)


def _setting_sections() -> Iterator[str]:
    last: type[BaseModel] = config.Config
    for whole, section, name in settings():
        if section is not last:
            yield f"## {whole.rpartition('.')[0]}\n\n{inspect.getdoc(section)}\n"
            last = section
        schema = section.model_json_schema()["properties"][name]
        field = section.model_fields[name]
        value = field.get_default(call_default_factory=True)
        type_of = "list of sections" if entry_section(field.annotation) else kind(schema)
        facts = f"{type_of}; {'required' if field.is_required() else f'default: {default(value)}'}"
        yield f"### {whole}\n\n{descriptions(section)[name]}\n\n*{facts}*\n"


def main() -> None:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    for path in PROSE:
        path.write_text(wrap(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
