from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.recipe.environment import quote_value, shell_lines


def as_the_shell_sees_it(quoted: str) -> str:
    script = f'export V={quoted}\nprintf %s. "$V"'
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"HOME": "/home/it s", "A1": "one"}, capture_output=True, check=True
    )
    return done.stdout.decode().removesuffix(".")


def test_references_are_followed_and_nothing_is_run() -> None:
    assert as_the_shell_sees_it(quote_value("${HOME}:$HOME/x")) == "/home/it s:/home/it s/x"
    assert as_the_shell_sees_it(quote_value("$A1-${A1}b $NOT_THERE!")) == "one-oneb !"
    assert as_the_shell_sees_it(quote_value("$$5 $1 $(id) `id` ${ $")) == "$5 $1 $(id) `id` ${ $"
    assert as_the_shell_sees_it(quote_value("")) == ""


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(min_codepoint=32, exclude_characters="$\x7f", exclude_categories=["Cs"]), max_size=60))
def test_any_other_text_stands_for_itself(value: str) -> None:
    assert as_the_shell_sees_it(quote_value(value)) == value


def test_lines_keep_their_order_and_the_venv_is_put_in_once() -> None:
    lines = shell_lines({"B": "1", "A": "$B"}, venv=True)
    script = f"{lines}{lines}echo $A $PATH"
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout == "1 /opt/venv/bin:/bin\n"
