"""The table of what stays behind when a snapshot is shared."""

from __future__ import annotations

import pytest

from broker.volumes.share_filter import SHARING_RULES, file_left_out, folder_left_out

FOLDERS = {
    "home": {
        *(".ssh", ".gnupg", ".aws", ".kube", ".docker", ".mozilla", ".config/chromium", ".config/gh", ".cache"),
        *(".vscode-server", ".config/Code", ".local/share/JetBrains", ".claude", ".local/share/keyrings"),
        *(".password-store", ".local/share/jupyter/runtime", "work/nested/.ssh", ".vim/undodir"),
    },
    "system": {"root/.ssh", "run", "tmp", "home", "proc", "root/.mozilla"},
}
FILES = {
    "home": {
        *(".bash_history", ".python_history", ".zsh_history", ".lesshst", ".netrc", ".git-credentials", ".npmrc"),
        *(".pgpass", "work/.env", "id_ed25519", "work/server.key", "Cookies", "cookies.sqlite", ".Xauthority"),
        *(".condarc", ".kaggle.token", ".cargo/credentials.toml", ".ipython/profile_default/history.sqlite"),
        *(".claude.json", ".viminfo", "store.jks", ".vault-token", ".m2/settings.xml"),
    },
    "system": {"etc/resolv.conf", "var/log/dpkg.log", "etc/ssh/ssh_host_ed25519_key", "root/.bash_history"},
}
SHARED = {
    "home": {"main.py", ".bashrc", ".profile", ".gitconfig", ".config/nvim/init.lua", "data/keys.csv", "history.md"},
    "system": {"etc/passwd", "opt/tool/bin/tool", "usr/lib/python3/site.py", "root/.profile"},
}


@pytest.mark.parametrize("volume", ["home", "system"])
def test_what_stays_behind_and_what_is_shared(volume: str) -> None:
    assert {path for path in FOLDERS[volume] if not folder_left_out(volume, path)} == set()
    assert {path for path in FILES[volume] if not file_left_out(volume, path, None)} == set()
    assert {path for path in SHARED[volume] if file_left_out(volume, path, lambda: b"content")} == set()
    assert {path for path in ("work", "data", ".config", "opt") if folder_left_out(volume, path)} == set()


CONTENTS = {
    "a private key": b"# mine\n-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64,
    "a token": b"TOKEN=ghp_" + b"a" * 36,
    "a Kerberos ticket": b"\x05\x04\x00\x0c",
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_secret_is_found_by_its_content(what: str) -> None:
    assert file_left_out("home", "notes.txt", lambda: CONTENTS[what]) == what
    assert what in file_left_out("system", "opt/notes.txt", lambda: CONTENTS[what])


@pytest.mark.parametrize(("pattern", "what"), SHARING_RULES)
def test_each_rule_matches_below_any_folder(pattern: str, what: str) -> None:
    path = pattern.replace("*", "x").rstrip("/")
    left_out = folder_left_out if pattern.endswith("/") else lambda volume, each: file_left_out(volume, each, None)
    for place in (path, f"some/folder/{path}"):
        assert left_out("home", place), (what, place)
