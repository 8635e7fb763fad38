"""Runs the clients against `tidegate serve` and holds their results against each other and against what was published.

Three rounds, each with a server of its own: the whole scenario with one shard and with two, all clients at once, ended by the
server's shutdown; and one in which a relay tampers with a patch on its way to each client, which must notice.
"""

import http.server
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

from relay import Relay
from scenario import expected, expected_of_faulty, scenario

SEED = 20_261_125
# Far beyond what a round takes; only for what hangs.
PATIENCE_SECONDS = 180
FAULTS = ("value", "gap", "twice")


class Failed(Exception):
    """With what to tell."""


class Process:
    """A child whose standard output is read line by line."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, deadline):
        """The next line; fails if there is none."""
        try:
            line = self._lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise Failed(f"{self.name} hangs") from None
        if line is None:
            raise Failed(f"{self.name} ended with exit code {self.child.wait()}, and without a result")
        return line

    def ended(self, deadline):
        try:
            code = self.child.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} does not end") from None
        if code != 0:
            raise Failed(f"{self.name} ended with exit code {code}")

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Server(Process):
    """`tidegate serve` on a port that the kernel chose."""

    def __init__(self, binary, shards, origin, folder):
        config = pathlib.Path(folder, "tidegate.toml")
        config.write_text(f'listen = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nshards = {shards}\nallowed_origins = ["{origin}"]\n')
        # Whatever is set around us is not meant for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        super().__init__("the server", [binary, "serve", "--config", str(config)], environment | {"TIDEGATE_LOG": "warn"})
        self.port = int(self.line(time.monotonic() + PATIENCE_SECONDS).rpartition(":")[2])
        self.url = f"ws://127.0.0.1:{self.port}"


class Pages:
    """The browser's files, on a port of their own: another origin than the engine's."""

    def __init__(self, folder):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=folder)

            def end_headers(self):
                # A page may share memory with its workers only if it is isolated like this.
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
                super().end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"


def commands(names, work, pages):
    """How each client is started; URL, prefix, plan and the rest follow."""
    here = pathlib.Path(__file__).parent
    java = os.pathsep.join([f"{work}/java/classes", *JARS])
    every = {
        "python": [sys.executable, str(here / "python/client.py")],
        "node": ["node", f"{work}/javascript/node.js"],
        "java": ["java", "-Xmx256m", "-cp", java, "Client"],
        "browser": ["node", f"{work}/javascript/browser.js", pages.origin, f"http://localhost:{pages.port}"],
    }
    return {name: every[name] for name in names}


# Debian's.
JARS = ("/usr/share/java/protobuf.jar", "/usr/share/java/gson.jar")


def whole_round(binary, shards, clients, plan, plan_file, pages):
    """The scenario, by all clients at once. Returns their results."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, shards, pages.origin, folder)
        running = []
        try:
            for name, command in clients.items():
                running.append(Process(name, [*command, server.url, f"interop/{name}", plan_file]))
            results = {}
            for client in running:
                line = json.loads(client.line(deadline))
                if client.name == "browser":
                    if line != {"refused": 1006}:
                        raise Failed(f"a page of another origin should have been refused: {line}")
                    line = json.loads(client.line(deadline))
                if line != {"waiting": True}:
                    raise Failed(f"{client.name} should wait for the shutdown: {line}")
            server.child.send_signal(signal.SIGTERM)
            for client in running:
                results[client.name] = json.loads(client.line(deadline))["result"]
                client.ended(deadline)
            server.ended(deadline)
            return results
        finally:
            for process in [*running, server]:
                process.kill()


def faulty_round(binary, clients, plan_file, pages):
    """Each client subscribes through a relay that tampers with a patch. Returns their results by client and fault."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, 1, pages.origin, folder)
        running = []
        try:
            for name, command in clients.items():
                for kind in FAULTS:
                    relay = Relay(server.port, kind)
                    rest = ["--faulty", f"ws://127.0.0.1:{relay.port}"]
                    client = Process(f"{name} ({kind})", [*command, server.url, f"interop/{name}/{kind}", plan_file, *rest])
                    running.append((name, kind, relay, client))
            results = {}
            for name, kind, relay, client in running:
                line = json.loads(client.line(deadline))
                if "refused" in line:
                    line = json.loads(client.line(deadline))
                results[name, kind] = line["result"]
                client.ended(deadline)
                if relay.tampered != 1:
                    raise Failed(f"the relay tampered with {relay.tampered} patches of {client.name}")
            server.child.send_signal(signal.SIGTERM)
            server.ended(deadline)
            return results
        finally:
            for *_, client in running:
                client.kill()
            server.kill()


def differences(found, wanted, path=""):
    """Where two results differ, a line each."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for at, (one, other) in enumerate(zip(found, wanted)):
            yield from differences(one, other, f"{path}[{at}]")
    elif found != wanted:
        yield f"{path}: {json.dumps(found)[:200]}, not {json.dumps(wanted)[:200]}"


def main(binary, work, *names):
    plan = scenario(SEED)
    pages = Pages(f"{work}/javascript/pages")
    plan_file = f"{work}/javascript/pages/plan.json"
    pathlib.Path(plan_file).write_text(json.dumps(plan), encoding="utf-8")
    clients = commands(names, work, pages)
    problems = []
    for shards in (1, 2):
        results = whole_round(binary, shards, clients, plan, plan_file, pages)
        for name, result in results.items():
            pathlib.Path(work, f"{name}-{shards}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
            wrong = [f"{name}, {shards} shards: {line}" for line in differences(result, expected(plan))]
            print(f"{name}, {shards} shards: {'as published' if not wrong else f'{len(wrong)} differences'}", flush=True)
            problems += wrong
        if len({json.dumps(result, sort_keys=True) for result in results.values()}) > 1:
            problems.append(f"{shards} shards: the clients do not agree")
    for (name, kind), result in faulty_round(binary, clients, plan_file, pages).items():
        wrong = [f"{name}, tampered with ({kind}): {line}" for line in differences(result, expected_of_faulty(plan, kind))]
        print(f"{name}, tampered with ({kind}): {'noticed, and healed' if not wrong else 'wrong'}", flush=True)
        problems += wrong
    if problems:
        raise Failed("\n".join(problems))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Failed as failed:
        sys.exit(f"interop: {failed}")
