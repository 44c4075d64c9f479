"""How a local cluster's nodes are started, without starting Ray: no token in words or variables, nothing is left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster import local_cluster, reaper
from cluster.errors import InfraError, UserError
from cluster.local_cluster import HEAD, WORKERS, ClusterRecord, cluster_at, find_cluster, list_clusters


@pytest.fixture(autouse=True)
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMILL_CLUSTERS", str(tmp_path / "clusters"))
    return tmp_path / "clusters"


def play(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Nodes are a program of the test's."""
    monkeypatch.setattr(local_cluster, "start_words", lambda record, name, group: [sys.executable, "-c", code, name])


RUNS = "import time; print('Ray runtime started', flush=True); time.sleep(600)"


def test_nodes_come_and_go(monkeypatch: pytest.MonkeyPatch, clusters: Path) -> None:
    play(monkeypatch, RUNS)
    record = local_cluster.up("one", 2, 4, 100 << 20)
    assert [node.name for node in record.nodes] == ["head", "worker-1", "worker-2"]
    assert all(local_cluster.alive(node) for node in record.nodes)
    assert Path(record.token_file).stat().st_mode & 0o777 == 0o600
    assert Path(record.folder).stat().st_mode & 0o777 == 0o700
    assert find_cluster(None) == find_cluster("one") == record
    for address in (record.dashboard, record.dashboard.replace("127.0.0.1", "localhost") + "/", record.address):
        assert cluster_at(address) == record
    with pytest.raises(UserError, match="runs already"):
        local_cluster.up("one", 1, 1, 100 << 20)
    record = local_cluster.remove_worker(record, record.workers[0])
    record = local_cluster.add_workers(record, 2)
    assert [node.name for node in record.workers] == ["worker-2", "worker-1", "worker-3"]
    local_cluster.down(record)
    assert not any(local_cluster.alive(node) for node in record.nodes)
    assert list_clusters() == []
    assert list(clusters.iterdir()) == []
    assert not Path(record.temp).exists()


@pytest.mark.parametrize("name", ["..", "../other", "/tmp/x", "", "A", "-x", "a" * 41])
def test_a_name_is_no_path(name: str, clusters: Path) -> None:
    with pytest.raises(UserError, match="is no name of a cluster"):
        local_cluster.up(name, 0, 1, 100 << 20)
    assert not clusters.exists()


def test_a_node_that_does_not_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, clusters: Path) -> None:
    code = f"import sys\nif sys.argv[1] == 'worker-2':\n    sys.exit('no memory here')\n{RUNS}"
    play(monkeypatch, code)
    marks: list[str] = []
    end = reaper.end_marked
    monkeypatch.setattr(reaper, "end_marked", lambda mark, **rest: (marks.append(mark), end(mark, **rest))[1])
    with pytest.raises(InfraError, match=r"node worker-2 did not start:\n  no memory here"):
        local_cluster.up("one", 2, 4, 100 << 20)
    assert len(set(marks)) == 3
    assert [reaper.marked_processes(mark) for mark in set(marks)] == [[], [], []]
    assert list(clusters.iterdir()) == []


def test_what_is_left_of_a_cluster_that_died_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, RUNS)
    first = local_cluster.up("one", 0, 1, 100 << 20)
    for node in first.nodes:
        local_cluster.end_node(node)
    second = local_cluster.up("one", 0, 1, 100 << 20)
    assert not Path(first.temp).exists()
    assert second.address != first.address
    local_cluster.down(second)


def example(folder: Path) -> ClusterRecord:
    token = folder / "token"
    token.write_text("do-not-show-me")
    return ClusterRecord(
        name="one",
        folder=str(folder),
        temp="/tmp/rmc-x",
        address="127.0.0.1:6379",
        dashboard="http://127.0.0.1:8265",
        client_port=10001,
        token_file=str(token),
        cpus=2,
        object_store_bytes=100 << 20,
        started_s=0.0,
    )


def test_the_token_is_in_no_word_and_no_variable(tmp_path: Path) -> None:
    record = example(tmp_path)
    base = {"RAY_ADDRESS": "elsewhere:1", "RAY_AUTH_TOKEN": "other", "AWS_REGION": "eu", "PATH": "/bin"}
    environment = local_cluster.node_environment(record, "mark", base)
    for group in (HEAD, WORKERS):
        assert "do-not-show-me" not in " ".join(local_cluster.start_words(record, "n", group))
    assert "do-not-show-me" not in str(environment)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == record.token_file
    assert environment["AWS_REGION"] == "eu"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & environment.keys()


def test_the_clusters_place_is_the_same_from_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job works in a folder of its own, and finds the token by its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYMILL_CLUSTERS", "clusters")
    assert local_cluster.clusters_folder() == tmp_path / "clusters"


def test_nodes_of_one_machine_share_no_port_and_no_folder(tmp_path: Path) -> None:
    record = example(tmp_path)
    head, worker = (local_cluster.start_words(record, name, group) for name, group in (("a", HEAD), ("b", WORKERS)))
    for words in (head, worker):
        assert words[words.index("--dashboard-agent-listen-port") + 1] == "0"
    assert head[head.index("--temp-dir") + 1] != worker[worker.index("--temp-dir") + 1]
    assert head[head.index("--dashboard-host") + 1] == "127.0.0.1"


def test_a_cluster_must_be_named_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, RUNS)
    records = [local_cluster.up(name, 0, 1, 100 << 20) for name in ("one", "two")]
    with pytest.raises(UserError, match="several local clusters run"):
        find_cluster(None)
    with pytest.raises(UserError, match="no local cluster three"):
        find_cluster("three")
    for record in records:
        local_cluster.down(record)
    with pytest.raises(UserError, match="no local cluster runs"):
        find_cluster(None)
