"""Four departments behind one HTTP port that write down every receipt in their own SQLite: shares no code with the hub."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Path → which fields of the document say what must happen once.
IDENTITIES = {
    "/platform/httpproxy/identity": ("MessageSequence",),
    "/platform/httpproxy/unified-number": ("ywh",),
    "/platform/httpproxy/progress": ("ywh", "nodename", "tachestatus"),
    "/platform/httpproxy/evaluation": ("projectno",),
    "/tax/tax/taxable-cases": ("body.ywsldh",),
    "/tax/tax/registration-results": ("body.ywsldh",),
    "/registry/registry/cases": ("ywh",),
    "/registry/registry/clearances": ("ywh",),
    "/hall/hall/notices": ("ywh", "kind"),
}
QUERIES = ("/tax/tax/clearance-queries", "/registry/registry/result-queries")


def pick(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[part]
    return document


class Departments:
    """Receives, absorbs repeats, sometimes answers badly."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("CREATE TABLE received (n INTEGER PRIMARY KEY, path, identity, delivery, sha256, applied)")
        self._db.execute("CREATE TABLE effects (path, identity, PRIMARY KEY (path, identity))")
        self._lock = threading.Lock()
        self._chance = random.Random(11)
        self.well = False

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql).fetchall()

    def arrived(self, delivery: str) -> bool:
        with self._lock:
            return bool(self._db.execute("SELECT 1 FROM received WHERE delivery = ?", (delivery,)).fetchone())

    def mood(self) -> str:
        with self._lock:
            return "well" if self.well else self._chance.choice(("well",) * 12 + ("busy", "mute", "late"))

    def receive(self, path: str, delivery: str, raw: bytes) -> None:
        document = json.loads(raw)
        identity = "|".join(str(pick(document, name)) for name in IDENTITIES[path])
        with self._lock:
            done = self._db.execute("INSERT OR IGNORE INTO effects VALUES (?, ?)", (path, identity)).rowcount
            self._db.execute(
                "INSERT INTO received (path, identity, delivery, sha256, applied) VALUES (?, ?, ?, ?, ?)",
                (path, identity, delivery, hashlib.sha256(raw).hexdigest(), done),
            )

    def query(self, path: str, raw: bytes) -> dict[str, Any]:
        if path.startswith("/registry"):
            return {"code": "1404"}
        case = json.loads(raw)["body"]["ywsldh"]
        if int(case[-6:]) % 5:
            return {"head": {"rtn_code": "1404"}}
        body = {"ywsldh": case, "wszt": "1", "nsrxx": [{"sphm": f"SP{case[-6:]}"}]}
        return {"head": {"rtn_code": "0000"}, "body": body}


def answer(path: str, raw: bytes) -> dict[str, Any]:
    if path.startswith("/tax"):
        return {"head": {"rtn_code": "0000"}}
    if path.startswith("/registry"):
        return {"code": "0000"}
    if path.endswith("/identity"):
        return {"code": "0", "data": {"CheckCode": "1"}}
    if path.endswith("/unified-number"):
        return {"code": "0", "data": {"caseno": "TY" + json.loads(raw)["ywh"]}}
    return {"code": "0"}


def serve(departments: Departments) -> ThreadingHTTPServer:
    """Listening on a free port, in a thread of its own."""

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            arrived = departments.arrived(self.path.rpartition("/")[2])
            self.reply(200 if arrived else 404, {"code": "0000" if arrived else "4004"})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Bearer token-{self.path.split('/')[1]}":
                self.reply(401, {})
                return
            if self.path in QUERIES:
                self.reply(200, departments.query(self.path, raw))
                return
            mood = departments.mood()
            if mood == "busy":
                self.reply(503, {})
                return
            departments.receive(self.path, self.headers["X-Delivery-Id"], raw)
            if mood == "mute":
                self.close_connection = True  # read and done, but never answered
                return
            if mood == "late":
                threading.Event().wait(0.8)  # longer than the hub waits
            self.reply(200, answer(self.path, raw))

        def reply(self, status: int, document: dict[str, Any]) -> None:
            raw = json.dumps(document).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                self.close_connection = True  # killed meanwhile

    class Street(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Whoever was killed in the middle of a word."""

    server = Street(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
