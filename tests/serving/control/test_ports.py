"""A port is only taken where nobody else listens, also nobody who would share it."""

import socket

import pytest

from cluster.errors import UserError
from serving.control.ports import cannot_listen, require_free


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_would_share_is_refused_with_the_key_to_change(taken, host):
    with pytest.raises(UserError) as caught:
        require_free(host, taken, key="admin_port")
    assert f"port {taken} is in use" in caught.value.what
    assert caught.value.where == f"serving.admin_port: {taken}"
    assert "--set serving.admin_port=" in caught.value.next_step


def test_a_free_port_is_still_free_after_the_question_and_0_always_is(taken):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)
    require_free("127.0.0.1", 0)


def test_an_address_that_is_not_this_machines_is_named():
    with pytest.raises(UserError, match=r"192\.0\.2\.1"):
        require_free("192.0.2.1", 8000)  # reserved for documentation (RFC 5737)
    assert "serving.host" in cannot_listen("::9", 1, OSError("no")).where
