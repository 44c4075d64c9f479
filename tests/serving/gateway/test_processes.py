"""Real processes: engines killed under load, ten thousand connections at once, the openai client as it is."""

import asyncio
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import openai
import psutil
import pytest

HERE = Path(__file__).parent
KEY = "engine-key"
CONNECTIONS = 10_000
ROOM = {"max_ongoing": 64, "max_queued": 64}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_engine(port):
    environment = {**os.environ, "RAYMILL_ENGINE_PORT": str(port), "VLLM_API_KEY": KEY}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    engine = subprocess.Popen([sys.executable, str(HERE.parent / "fake_engine.py")], env=environment, **quiet)
    for _ in range(200):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return engine
        time.sleep(0.05)
    raise AssertionError("the engine does not listen")


def kill(engine):
    """With its child, as nobody minds it here."""
    if engine.poll() is None:
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


@contextmanager
def serving(engines, **limits):
    """Engine processes and a gateway process; gives the engines by port, the gateway and its port."""
    ports = [free_port() for _ in range(engines)]
    running = {port: start_engine(port) for port in ports}
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    command = [sys.executable, str(HERE / "gateway_process.py"), KEY, json.dumps(limits), *addresses]
    gateway = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield running, gateway, int(gateway.stdout.readline())
    finally:
        gateway.stdin.close()
        try:
            gateway.wait(10)
        finally:
            gateway.kill()
            gateway.stdout.close()
            for engine in running.values():
                kill(engine)


@pytest.fixture(scope="module")
def endpoint():
    with serving(2) as (engines, _, port):
        yield engines, port


def test_no_request_fails_while_engines_are_killed(endpoint):
    engines, port = endpoint
    url = f"http://127.0.0.1:{port}/v1/completions"

    async def client(session, index, outcomes, until):
        while time.monotonic() < until:
            stream = index % 4 == 0
            body = {"prompt": "paced" if stream else "x", "user": f"u{index}", "stream": stream}
            async with session.post(url, json=body) as reply:
                raw = await reply.read()
                ended = raw.endswith(b"data: [DONE]\n\n") or b"stream_interrupted" in raw
                whole = ended if stream else b"choices" in raw
                outcomes[stream, reply.status, whole] += 1

    async def run():
        outcomes = Counter()
        async with aiohttp.ClientSession() as session:
            until = time.monotonic() + 4
            clients = [asyncio.create_task(client(session, index, outcomes, until)) for index in range(12)]
            for victim in list(engines):
                await asyncio.sleep(0.3)
                kill(engines[victim])
                engines[victim] = await asyncio.to_thread(start_engine, victim)
                await asyncio.sleep(0.8)  # probes find it again
            await asyncio.gather(*clients)
        return outcomes

    outcomes = asyncio.run(run())
    assert set(outcomes) == {(False, 200, True), (True, 200, True)}, outcomes
    assert outcomes[False, 200, True] > 100


def test_the_openai_client_works_unchanged(endpoint):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{endpoint[1]}/v1", api_key="anything", max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo"]
    completion = client.completions.create(model="demo", prompt="x", max_tokens=3, stop=["a"], logprobs=1, seed=1, n=1)
    assert completion.choices[0].text == "ok" and completion.usage.total_tokens == 2
    messages = [{"role": "user", "content": "x"}]
    chat = client.chat.completions.create(model="demo", messages=messages, response_format={"type": "json_object"})
    assert chat.choices[0].message.content == "ok"
    events = client.chat.completions.create(model="demo", messages=messages, stream=True)
    assert "".join(event.choices[0].delta.content for event in events) == "0 1 2 3 4 "
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="gpt-9", prompt="x")
    with pytest.raises(openai.APIError, match="stopped in the middle"):
        list(client.completions.create(model="demo", prompt="die-midway", stream=True))
    with pytest.raises(openai.InternalServerError, match="engine trouble"):
        client.completions.create(model="demo", prompt="fail")
    answer = client.completions.with_raw_response.create(model="demo", prompt="x", user="ann")
    assert answer.headers["X-Raymill-Assignment"] == "sticky" and answer.headers["X-Request-Id"]


def burst(port, count):
    """Open ``count`` connections at once, ask on each, and tell how they ended."""
    body = b'{"prompt":"x"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    request = head % len(body) + body
    selector, outcomes, answers = selectors.EpollSelector(), Counter(), {}
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        answers[sock] = b""
        selector.register(sock, selectors.EVENT_WRITE)
    end = time.monotonic() + 40

    def done(sock, how):
        selector.unregister(sock)
        sock.close()
        del answers[sock]
        outcomes[how] += 1

    while answers and time.monotonic() < end:
        for key, events in selector.select(1):
            sock = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    sock.send(request)
                    selector.modify(sock, selectors.EVENT_READ)
                    continue
                piece = sock.recv(65536)
            except OSError:
                done(sock, "closed")
                continue
            answers[sock] += piece
            if not piece:
                done(sock, answers[sock][9:12].decode() or "closed")
    for sock in list(answers):
        done(sock, "silence")
    return outcomes


def test_ten_thousand_connections_at_once_are_all_answered_in_bounded_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 500:
        pytest.skip(f"this system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(1, **ROOM) as (_, gateway, port):
            process = psutil.Process(gateway.pid)
            burst(port, 200)
            before = process.memory_info().rss
            outcomes = burst(port, CONNECTIONS)
            after = process.memory_info().rss
            again = burst(port, 100)
            print(f"burst: {dict(outcomes)}; RSS {before >> 20} -> {after >> 20} MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(outcomes) <= {"200", "503", "closed"}, outcomes
    assert outcomes["200"] >= ROOM["max_ongoing"] + ROOM["max_queued"]  # every place was taken
    assert outcomes["closed"] <= CONNECTIONS // 100  # told that it is busy, but for a few that the system refuses
    assert after - before < 200 << 20
    assert again["200"] == 100  # and goes on as before
