"""Both stores keep the same promises; the conditional writes hold between real processes."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import InfraError, UserError
from cluster.store import Store, open_store
from cluster.store_local import LocalStore


def test_what_is_written_is_read(any_store: Store) -> None:
    any_store.write("a/b.bin", b"one")
    any_store.write("a/b.bin", b"two")
    assert any_store.read("a/b.bin") == b"two"
    assert any_store.exists("a/b.bin")
    assert any_store.sha256("a/b.bin") == (hashlib.sha256(b"two").hexdigest(), 3)


def test_missing_objects_are_file_not_found(any_store: Store) -> None:
    any_store.write("a/b", b"x")
    for key in ("none", "a", "a/b/c"):
        with pytest.raises(FileNotFoundError):
            any_store.read(key)
        assert not any_store.exists(key)
    any_store.delete("none")


def test_listing_is_sorted_and_by_prefix(any_store: Store) -> None:
    for key in ("b/2", "a/1", "a/10", "ab/3", "a/c/d"):
        any_store.write(key, key.encode())
    assert [item.key for item in any_store.files()] == ["a/1", "a/10", "a/c/d", "ab/3", "b/2"]
    assert [item.key for item in any_store.files("a/")] == ["a/1", "a/10", "a/c/d"]
    assert [item.key for item in any_store.files("a/1")] == ["a/1", "a/10"]
    assert [item.size_bytes for item in any_store.files("a/c/")] == [5]
    assert any_store.folders() == ["a", "ab", "b"]
    assert any_store.folders("a") == ["c"]
    assert any_store.folders("none") == []
    assert list(any_store.files("none/")) == []


def test_put_if_absent_writes_once(any_store: Store) -> None:
    assert any_store.put_if_absent("k", b"first")
    assert not any_store.put_if_absent("k", b"second")
    assert any_store.read("k") == b"first"


def test_put_if_match_replaces_only_what_was_meant(any_store: Store) -> None:
    assert not any_store.put_if_match("k", b"new", b"old")
    any_store.write("k", b"old")
    assert not any_store.put_if_match("k", b"new", b"other")
    assert any_store.put_if_match("k", b"new", b"old")
    assert any_store.read("k") == b"new"


def test_files_go_up_and_come_down_whole(any_store: Store, tmp_path: Path) -> None:
    data = os.urandom(9 << 20)
    (tmp_path / "in").write_bytes(data)
    any_store.upload(tmp_path / "in", "x/y.bin")
    any_store.download("x/y.bin", tmp_path / "out" / "y.bin")
    assert (tmp_path / "out" / "y.bin").read_bytes() == data
    assert b"".join(any_store.stream("x/y.bin")) == data
    with pytest.raises(FileNotFoundError):
        any_store.download("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_is_copied_and_removed(any_store: Store, tmp_path: Path) -> None:
    for key in ("m/a", "m/b/c", "mm/d"):
        any_store.write(key, key.encode())
    any_store.download_all("m", tmp_path / "copy")
    assert (tmp_path / "copy" / "b" / "c").read_bytes() == b"m/b/c"
    assert any_store.delete_all("m") == 2
    assert [item.key for item in any_store.files()] == ["mm/d"]
    any_store.write("kind/artifact/one/a", b"a")
    any_store.write("kind/artifact/two/b", b"b")
    assert any_store.delete_all("kind/artifact/one") == 1
    assert any_store.folders("kind/artifact") == ["two"]
    assert any_store.delete_all("kind/artifact/two") == 1
    assert any_store.folders("kind") == [] and any_store.folders() == ["mm"], "nothing is below them any more"


def test_a_copy_is_independent_of_what_it_was_made_from(any_store: Store) -> None:
    any_store.write("a", b"one")
    any_store.write("deep/b", b"old")
    any_store.copy("a", "deep/b")
    any_store.write("a", b"two")
    assert (any_store.read("a"), any_store.read("deep/b")) == (b"two", b"one")
    any_store.copy("a", "c")
    any_store.delete("a")
    assert any_store.read("c") == b"two"
    with pytest.raises(FileNotFoundError):
        any_store.copy("none", "d")
    assert [item.key for item in any_store.files()] == ["c", "deep/b"]


def test_folder_marks_of_other_writers_are_not_files(s3_store: Store) -> None:
    filesystem, path = s3_store.arrow("d/sub")
    filesystem.create_dir(path)
    s3_store.write("d/f", b"x")
    assert [item.key for item in s3_store.files("d/")] == ["d/f"]
    assert s3_store.delete_all("d") == 1
    assert s3_store.folders("") == []


def test_stores_pickle_and_reopen(any_store: Store) -> None:
    any_store.write("k", b"v")
    assert pickle.loads(pickle.dumps(any_store)).read("k") == b"v"
    assert open_store(any_store.url).read("k") == b"v"


def test_pyarrow_sees_the_same_objects(any_store: Store) -> None:
    any_store.write("d/f", b"bytes")
    filesystem, path = any_store.arrow("d/f")
    with filesystem.open_input_stream(path) as stream:
        assert stream.read() == b"bytes"


def test_unknown_scheme_and_missing_bucket() -> None:
    with pytest.raises(UserError, match="unknown kind of store gs://"):
        open_store("gs://bucket/x")
    with pytest.raises(UserError, match="no bucket named"):
        open_store("s3://")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000", "AWS_ENDPOINT_URL=minio:9000: is not a URL"),
        ("AWS_ENDPOINT_URL_S3", "minio", "AWS_ENDPOINT_URL_S3=minio: is not a URL"),
        ("AWS_MAX_ATTEMPTS", "many", "AWS_MAX_ATTEMPTS: is not a number: many"),
        ("AWS_PROFILE", "nobody", "AWS_PROFILE: The config profile (nobody) could not be found"),
        ("AWS_CA_BUNDLE", "/none.pem", "AWS_CA_BUNDLE=/none.pem: no such file"),
    ],
)
def test_a_mistake_in_the_environment_is_the_users(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told before a server is asked, or asked again and again."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for variable, text in {**keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", name: value}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(UserError) as mistake:
        open_store("s3://bucket/prefix").folders()
    assert said in str(mistake.value)


def test_a_name_that_no_bucket_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "a")
    with pytest.raises(UserError, match='Invalid bucket name "My!Bucket"\n'):
        open_store("s3://My!Bucket/prefix").read("key")


def test_absent_bucket_is_the_users_mistake(s3_store: Store) -> None:
    with pytest.raises(UserError, match="no such bucket"):
        open_store("s3://no-such-bucket-anywhere").check_writable()


def test_s3_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InfraError, match="does not answer"):
        open_store("s3://bucket/x").check_writable()


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        open_store(tmp_path / "file" / "store").check_writable()
    with pytest.raises(UserError, match="/proc/none: "):
        open_store("/proc/none").check_writable()


def test_full_disk_is_an_infrastructure_error_and_leaves_nothing(store: LocalStore) -> None:
    """A real limit on file size stands in for a full disk: the write fails halfway, in a process of its own."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from cluster.errors import InfraError\n"
        "from cluster.store_local import LocalStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    LocalStore(Path(sys.argv[1])).write('big', b'x' * 100_000)\n"
        "except InfraError as error:\n"
        "    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, store.url], check=False).returncode == 7
    assert list(store.files()) == []
    assert list(Path(store.url).iterdir()) == []


def test_a_server_without_conditional_writes_is_refused(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def unconditional(key: str, data: bytes) -> bool:
        s3_store.write(key, data)
        return True

    s3_store.check_writable()
    monkeypatch.setattr(s3_store, "put_if_absent", unconditional)
    with pytest.raises(UserError, match="writing an object only once"):
        s3_store.check_writable()
    assert list(s3_store.files()) == []


def test_keys_cannot_leave_the_store(store: LocalStore) -> None:
    with pytest.raises(UserError, match="leaves the store"):
        store.write("../outside", b"x")


def in_processes(code: str, url: str, count: int = 4) -> list[str]:
    """Run the same code in several processes at once; what each printed."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, url, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return outputs


def test_one_of_many_processes_wins_put_if_absent(store: LocalStore) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cluster.store_local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "print(*[n for n in range(50) if store.put_if_absent(f'record-{n}', sys.argv[2].encode())])\n"
    )
    won = [{int(word) for word in output.split()} for output in in_processes(code, store.url)]
    assert sum(map(len, won)) == 50
    assert set.union(*won) == set(range(50))
    for number in range(50):
        winner = int(store.read(f"record-{number}"))
        assert number in won[winner]


def test_no_update_is_lost_between_processes(store: LocalStore) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cluster.store_local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "done = 0\n"
        "while done < 25:\n"
        "    current = store.read('counter')\n"
        "    done += store.put_if_match('counter', str(int(current) + 1).encode(), current)\n"
    )
    store.write("counter", b"0")
    in_processes(code, store.url)
    assert store.read("counter") == b"100"
