"""The servers that are measured: what they are, how they are started, what is set."""

import os
import pathlib
import re
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CACHE = pathlib.Path(os.environ.get("BENCH_PEERS", TARGET / "peers"))
TIDEGATE = TARGET / "release" / "tidegate"

# What `tidegate bench --peer` calls the protocol of each.
DIALECTS = {
    "bun": "broadcast",
    "uws": "broadcast",
    "nats": "nats",
    "nchan": "nchan",
    "mosquitto": "mqtt",
    "ws": "broadcast",
    "socketio": "socket-io",
    "tungstenite": "broadcast",
    "fastwebsockets": "broadcast",
}
PEERS = list(DIALECTS)
NAMES = ["tidegate", *PEERS]

TITLES = {
    "tidegate": "Tidegate",
    "bun": "Bun",
    "uws": "uWebSockets (Node binding)",
    "nats": "NATS (WebSocket)",
    "nchan": "Nchan (nginx)",
    "mosquitto": "Mosquitto (MQTT over WebSocket)",
    "ws": "npm ws",
    "socketio": "socket.io",
    "tungstenite": "tokio-tungstenite",
    "fastwebsockets": "fastwebsockets",
}

# What the profiles set, for the table. `serve` and servers/ do it.
SETTINGS = {
    "bun": {
        "default": "as it comes (backpressureLimit 16 MiB)",
        "throughput": "backpressureLimit none, no pings",
        "freshness": "backpressureLimit 16 KiB, beyond which messages are dropped; no pings",
    },
    "uws": {
        "default": "as it comes (maxBackpressure 64 KiB, beyond which messages are dropped)",
        "throughput": "maxBackpressure 1 GiB, no pings",
        "freshness": "maxBackpressure 16 KiB, no pings",
    },
    "nats": {
        "default": "as it comes (max_pending 64 MB, write_deadline 10 s); GOMAXPROCS=1",
        "throughput": "max_pending 1 GB, write_deadline 60 s, GOGC=400; GOMAXPROCS=1",
        "freshness": "max_pending 256 KB, beyond which it closes the connection, write_deadline 60 s, GOGC=400; GOMAXPROCS=1",
    },
    "nchan": {
        "default": "as it comes (10 messages kept), one process, no access log",
        "throughput": "nchan_message_buffer_length 4096, nchan_message_timeout 30s, nchan_shared_memory_size 1g",
        "freshness": "nchan_message_buffer_length 1, nchan_message_timeout 5s, nchan_shared_memory_size 1g",
    },
    "mosquitto": {
        "default": "as it comes (max_queued_messages 1000, Nagle's algorithm on); QoS 1 in, QoS 0 out",
        "throughput": "max_queued_messages 0 (no limit), set_tcp_nodelay, no $SYS topics",
        "freshness": "max_queued_messages 16, set_tcp_nodelay, no $SYS topics",
    },
    "ws": {
        "default": "send() to each client",
        "throughput": "frame made once, written to each client's socket, corked for the tick",
        "freshness": "as throughput; a client with 16 KiB waiting is skipped",
    },
    "socketio": {
        "default": "as it comes; a room, binary attachments",
        "throughput": "WebSocket transport only, no HTTP compression",
        "freshness": "as throughput; volatile events",
    },
    "tungstenite": {
        "default": "one tokio thread, a broadcast channel of 65,536 messages, flushed after each message",
        "throughput": "... flushed once for all messages that are there",
        "freshness": "as throughput; a channel of 16 messages, SO_SNDBUF 16 KiB",
    },
    "fastwebsockets": {
        "default": "one tokio thread, a broadcast channel of 65,536 messages, written message by message",
        "throughput": "... through a BufWriter of 64 KiB, flushed once for all messages that are there",
        "freshness": "as throughput; a channel of 16 messages, SO_SNDBUF 16 KiB",
    },
    "tidegate": {
        "default": "as it comes, one shard; plain clients",
        "credit": "as it comes, one shard; clients that confirm what they read (credit 64 KiB)",
    },
}

START_SECONDS = 20
STOP_SECONDS = 5


class Failure(Exception):
    """What went wrong with a server, in a sentence for the table."""


class Server:
    """One peer's server, from start to stop."""

    def __init__(self, name, profile, cpu):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        logs = CACHE / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}-{profile}.log"
        with open(self.log, "wb") as log:
            command = [HERE / "serve", name, str(self.port), profile, str(cpu)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self):
        return self.process.pid

    def _await(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failure(f"took no connection within {START_SECONDS} s: {self.last_words()}")

    def _check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"its process ended with {self.process.returncode}: {self.last_words()}")

    def check(self):
        """Raises if it is gone, or is more than the one process whose CPU time is read."""
        self._check_alive()
        for task in pathlib.Path(f"/proc/{self.pid}/task").glob("*/children"):
            if children := task.read_text().split():
                raise Failure(f"it has {len(children)} child processes, whose CPU time would not be counted")

    def last_words(self):
        """The last line that it said."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def stop(self):
        """Ends it, and waits for that."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _said(*command):
    """What a command printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip()


def version(name, tidegate):
    """What is installed."""
    modules = CACHE / "npm" / "node_modules"
    if name == "tidegate":
        commit = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
        return f"{_said(str(tidegate), '--version').removeprefix('tidegate ')} ({commit})"
    if name == "bun":
        return _said(str(next((modules / "@oven").glob("bun-*/bin/bun"))), "--version")
    if name in ("uws", "ws", "socketio"):
        package = {"uws": "@trufflesuite/uws-js-unofficial", "ws": "ws", "socketio": "socket.io"}[name]
        text = (modules / package / "package.json").read_text()
        return f'{re.search(r""""version": "([^"]+)""", text)[1]} (Node {_said("node", "--version").lstrip("v")})'
    if name == "nats":
        return _said(str(CACHE / "python" / "bin" / "nats-server"), "--version").split("v")[-1]
    if name in ("nchan", "mosquitto"):
        package = {"nchan": "libnginx-mod-nchan", "mosquitto": "mosquitto"}[name]
        return _said("dpkg-query", "--show", "--showformat", "${Version}", package)
    lock = (HERE / "servers" / "rust" / "Cargo.lock").read_text()
    crate = {"tungstenite": "tokio-tungstenite"}.get(name, name)
    return re.search(rf'name = "{crate}"\nversion = "([^"]+)"', lock)[1]
