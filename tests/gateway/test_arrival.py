import http.client
import resource
import socket
import threading
import time

import orjson

from tests.gateway.conftest import CALLERS, signature, until

MIB = 1024 * 1024


def chunks(total, size=64 * 1024):
    piece = b"x" * size
    for _ in range(total // size):
        yield piece


def test_content_length_over_the_limit_is_refused_at_once(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as line:
        line.sendall(b"POST /api/v1/cases HTTP/1.1\r\nHost: a\r\nContent-Length: 20971520\r\n\r\n")
        begun = time.monotonic()
        assert line.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - begun < 1


def test_a_sender_of_twenty_megabytes_reads_its_413_and_may_go_on(gateway):
    line = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    for _ in range(2):
        line.request("POST", "/api/v1/cases", b"x" * (20 * MIB))
        answer = line.getresponse()
        assert answer.status == 413
        assert orjson.loads(answer.read())["code"] == "too_large"
    line.close()
    assert gateway.desk.refusals == [("too_large", "")] * 2


def test_twenty_megabytes_in_chunks_are_cut_in_bounded_memory(gateway):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    line.request("POST", "/api/v1/cases", chunks(20 * MIB), encode_chunked=True)
    answer = line.getresponse()
    assert answer.status == 413
    assert orjson.loads(answer.read())["code"] == "too_large"
    line.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_an_endless_body_is_cut_off(serving):
    gateway = serving(discard_bytes=MIB, body_timeout_s=2)
    sent = 0
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as line:
        line.sendall(b"POST /api/v1/cases HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            while sent < 256 * MIB:
                line.sendall(piece)
                sent += 65536
        except OSError:
            pass
    assert sent < 64 * MIB


def test_a_soap_sender_reads_its_413_as_a_fault(gateway):
    answer = gateway.raw("POST", "/soap/tax", b"x" * MIB, {"Content-Type": "application/soap+xml"})
    assert answer.status == 413
    assert b"<code>too_large</code>" in answer.body
    assert b"env:Sender" in answer.body


def test_expect_100_continue_is_answered_without_the_body(gateway):
    head = b"POST /api/v1/cases HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20971520\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as line:
        line.sendall(head)
        found = b""
        while piece := line.recv(4096):
            found += piece
        assert found.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in found


def test_a_slow_body_times_out(serving):
    gateway = serving(body_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as line:
        line.sendall(b"POST /api/v1/cases HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")
        found = b""
        while piece := line.recv(4096):
            found += piece
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in found


def test_a_sender_that_leaves_is_no_error(gateway, logged):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as line:
        line.sendall(b"POST /api/v1/cases HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")
    assert gateway.raw("GET", "/healthz").status == 200
    until(lambda: "status=499" in logged.text)
    assert "unexpected" not in logged.text


def test_more_calls_than_may_wait_are_told_busy(serving, monkeypatch):
    gateway = serving(desk_threads=1, max_waiting=1)
    gate, entered = threading.Event(), threading.Event()

    def held(_desk):
        entered.set()
        gate.wait(10)

    monkeypatch.setattr(type(gateway.desk), "_fail", held)
    try:
        done = []
        threads = [
            threading.Thread(target=lambda: done.append(gateway.call("hall", "cases", "GET", "/api/v1/cases/1").status))
            for _ in range(2)
        ]
        threads[0].start()
        entered.wait(5)
        threads[1].start()
        time.sleep(0.3)
        answer = gateway.call("hall", "cases", "GET", "/api/v1/cases/1")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "busy", "1")
        assert gateway.raw("GET", "/healthz").status == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert done == [404, 404]
    finally:
        gate.set()


def test_a_signed_chunked_body_is_taken(gateway):
    body = b'{"ywh":"1"}'
    target = "/api/v1/exchanges/registry/progress"
    line = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    signed = signature(CALLERS["registry"], "s_p", "POST", target, body)
    line.request("POST", target, iter([body[:4], body[4:]]), signed, encode_chunked=True)
    assert line.getresponse().status == 200
    line.close()
