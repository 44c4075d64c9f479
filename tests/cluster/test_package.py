"""The code that travels: the same bytes for the same files, nothing ignored or secret, never too much."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.package import Package, pack


def folder_with(base: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return base


def names(package: Package) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(package.data)).namelist()


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    one = folder_with(tmp_path / "one", {"b.py": "B", "a/c.py": "C"})
    two = folder_with(tmp_path / "two", {"a/c.py": "C", "b.py": "B"})
    os.utime(two / "b.py", (1, 1))
    first, second = pack(one), pack(two)
    assert first.data == second.data
    assert first.digest == second.digest
    (two / "b.py").write_text("changed")
    assert pack(two).digest != first.digest


def test_what_no_job_needs_and_what_is_secret_stays(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        {
            "job.py": "",
            "run.sh": "",
            ".git/config": "",
            "x/__pycache__/a.pyc": "",
            ".env": "A=1",
            "keys/server.pem": "",
            ".aws/credentials": "",
            "raymill-store/big": "",
        },
    )
    (folder / "run.sh").chmod(0o755)
    package = pack(folder, {".raymill/recipe.yaml": b"name: a\n"})
    assert names(package) == [".raymill/recipe.yaml", "job.py", "run.sh"]
    assert package.secret == (".aws/", ".env", "keys/server.pem")
    modes = {entry.filename: entry.external_attr >> 16 for entry in zipfile.ZipFile(io.BytesIO(package.data)).filelist}
    assert modes["run.sh"] == 0o755
    assert modes["job.py"] == 0o644


def test_ignore_rules_are_those_of_git(tmp_path: Path) -> None:
    rules = "*.log\n!keep.log\n/top.txt\ndata/\ndocs/*.md\n**/deep/x\na/**/z\nfile?.txt\n[ab].c\n# a comment\n"
    paths = [
        *("a.log", "keep.log", "s/b.log", "top.txt", "s/top.txt", "data/f", "s/data/f", "docs/a.md", "docs/s/a.md"),
        *("deep/x", "s/deep/x", "a/z", "a/b/c/z", "file1.txt", "file12.txt", "a.c", "c.c"),
    ]
    nested = {"sub/.gitignore": "*.tmp\n/only.txt\n!b.log\n[!x].dat\n"}
    paths += ["sub/a.tmp", "sub/s/a.tmp", "a.tmp", "sub/only.txt", "sub/s/only.txt", "sub/b.log", "sub/a.dat"]
    paths += ["sub/x.dat", "submarine/a.tmp"]
    folder = folder_with(tmp_path, dict.fromkeys(paths, "") | {".gitignore": rules} | nested)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert names(pack(folder)) == sorted(listed.stdout.split())


def test_too_much_is_refused_with_the_largest_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"small": "x", "model.bin": "x" * 3000})
    with pytest.raises(UserError, match=r"largest: model\.bin"):
        pack(folder, max_bytes=1000)
    (folder / ".raymillignore").write_text("*.bin\n")
    assert names(pack(folder, max_bytes=1000)) == [".raymillignore", "small"]


def test_too_many_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with(tmp_path, dict.fromkeys(("a", "b", "c/d"), "x"))
    monkeypatch.setattr("cluster.package.MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        pack(tmp_path)


def test_a_key_in_a_file_is_refused_without_being_shown(tmp_path: Path) -> None:
    key = "hf_" + "k" * 34
    folder_with(tmp_path, {"notes.txt": f"login with {key}"})
    with pytest.raises(UserError, match=r"notes\.txt holds what looks like a Hugging Face token") as refusal:
        pack(tmp_path)
    assert key not in str(refusal.value)


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    """Neither into folders elsewhere nor to a file there, whatever the link is called; nor to a secret here."""
    folder = folder_with(tmp_path / "here", {"a.py": "A", ".env": "A=1", ".aws/credentials": "x"})
    folder_with(tmp_path / "elsewhere", {"b.py": "", "credentials": "password of somebody"})
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "settings.txt").symlink_to(tmp_path / "elsewhere" / "credentials")
    (folder / "plain.txt").symlink_to(".env")
    (folder / "cloud.txt").symlink_to(".aws/credentials")
    (folder / "same.py").symlink_to("a.py")
    (folder / "broken").symlink_to("none")
    package = pack(folder)
    assert names(package) == ["a.py", "same.py"]
    assert package.outside == ("link", "settings.txt")
    assert package.secret == (".aws/", ".env", "cloud.txt", "plain.txt")


def test_a_name_that_no_archive_can_hold_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.py", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(UserError, match=r"not UTF-8: 'caf\\udce9.py'"):
        pack(tmp_path)
