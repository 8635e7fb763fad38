"""Measures Tidegate and its peers in turn, keeps every row, and writes the table. `run` starts it."""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import table
from cases import SUBSCRIBERS, cases, delivered, half_rate
from servers import CACHE, DIALECTS, HERE, NAMES, ROOT, TIDEGATE, Failure, Server, version

CONGESTION = "cubic"
SYSCTL = pathlib.Path("/proc/sys/net/ipv4")
# What a case may take beside its measured seconds: connecting, warming up, reading what is left.
EXTRA_SECONDS = 100


def options():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benches/peers/run",
        description="Installs the peers, measures Tidegate and them in turn, and writes the table. Started again, it keeps the "
        "rows it has and makes those that are missing.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", metavar="NAMES", help=f"servers, with commas between them, of {', '.join(NAMES)}")
    parser.add_argument("--cases", metavar="NAMES", help="cases, with commas between them; the beginning of a name will do")
    parser.add_argument("--runs", type=int, default=5, help="repetitions, interleaved; the table shows medians")
    parser.add_argument(
        "--long-runs",
        type=int,
        default=5,
        help="repetitions of the long cases: slow readers, depth, idle memory; each takes about ten minutes with all servers, so "
        "that everything is over in a bit more than an hour, and with one repetition of these in half an hour",
    )
    parser.add_argument("--seconds", type=float, default=2, help="measured in each case, after 1 s of warm-up")
    parser.add_argument("--slow-seconds", type=int, default=20, help="measured with slow readers")
    parser.add_argument("--minutes", type=float, help="begin nothing more after so many minutes")
    parser.add_argument("--quick", action="store_true", help="one short repetition with few subscribers: whether all of it works")
    parser.add_argument("--rows", type=pathlib.Path, help="where rows are kept [target/peers/rows.jsonl]")
    parser.add_argument("--fresh", action="store_true", help="begin anew: forget the rows that there are")
    parser.add_argument("--out", type=pathlib.Path, help="where the table goes, in Markdown [standard output]")
    parser.add_argument("--server-cpu", type=int, default=0, help="the CPU of the servers")
    parser.add_argument("--generator-cpu", type=int, default=1, help="the CPU of the load generator")
    parser.add_argument("--binary", type=pathlib.Path, help="the tidegate to measure and to generate load with [a release build]")
    parser.add_argument("--check", action="store_true", help="fail if a server failed, or if a record is missing")
    parser.add_argument("--table", action="store_true", help="measure nothing: write the table of the rows that there are")
    # Set where the command has put itself into a network of its own.
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.tidegate = chosen.binary or TIDEGATE
    chosen.names = chosen.only.split(",") if chosen.only else NAMES
    if unknown := [name for name in chosen.names if name not in NAMES]:
        parser.error(f"--only: no server is named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if chosen.quick:
        chosen.runs, chosen.long_runs, chosen.seconds, chosen.slow_seconds = 1, 1, 0.5, 2
    chosen.rows = chosen.rows or CACHE / ("rows-quick.jsonl" if chosen.quick else "rows.jsonl")
    chosen.list = cases(chosen.seconds, chosen.slow_seconds, chosen.quick)
    if chosen.cases:
        wanted = tuple(chosen.cases.split(","))
        chosen.list = [case for case in chosen.list if case.name.startswith(wanted)]
        if not chosen.list:
            parser.error(f"--cases: no case begins with {chosen.cases}")
    cpus = os.sched_getaffinity(0)
    if not {chosen.server_cpu, chosen.generator_cpu} <= cpus or chosen.server_cpu == chosen.generator_cpu:
        parser.error(f"server and generator want a CPU each, of {sorted(cpus)}")
    return chosen


def prepare(chosen):
    """Installs, builds, and goes on in a network namespace of its own, where congestion control is nobody else's matter."""
    peers = [name for name in chosen.names if name != "tidegate"]
    if peers:
        subprocess.run([HERE / "install", *peers], check=True)
    if not chosen.binary:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    # A namespace may only take what the host allows it.
    allowed = SYSCTL / "tcp_allowed_congestion_control"
    if CONGESTION not in allowed.read_text().split():
        try:
            allowed.write_text(f"{allowed.read_text().strip()} {CONGESTION}")
        except OSError as error:
            sys.exit(f"{CONGESTION} has to be among {allowed} ({error.strerror}): run this as root, or add it")
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    os.execvp("unshare", [*namespace, sys.executable, "-B", *sys.argv, "--in-namespace"])


class Rows:
    """One JSON object for each line: what was measured, and first how; rows that were made otherwise are no part of it."""

    def __init__(self, path, how):
        """Reads what there is; without `how`, whatever it is."""
        self.path = path
        self.rows = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            text = path.read_text()
            if not text.endswith("\n"):
                # The row that was being written when it was stopped.
                text = text[: text.rfind("\n") + 1]
                path.write_text(text)
            lines = [json.loads(line) for line in text.splitlines()]
            if lines and how and lines[0]["how"] != how:
                sys.exit(f"{path} holds rows of other settings or another build: --fresh forgets them, --rows keeps them apart")
            self.rows = lines[1:]
        elif how is None:
            sys.exit(f"{path} is not there: nothing was measured yet")
        if not path.exists() or not path.stat().st_size:
            path.write_text(json.dumps({"how": how}) + "\n")

    def has(self, key):
        """Whether there is a row of this case, server, profile and run."""
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row):
        """Keeps it at once: the next moment may be the last."""
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def bench(chosen, case, profile, arguments, server):
    """One measurement: what `tidegate bench` found, and its last sentence if something was wrong."""
    command = [chosen.tidegate, "bench", case.scenario, *arguments, "--json", "--congestion", CONGESTION]
    command += ["--server-cpu", chosen.server_cpu, "--generator-cpu", chosen.generator_cpu]
    if server is None:
        command += ["--credit", 65_536] if profile == "credit" else []
    else:
        name, process = server
        command += ["--peer", DIALECTS[name], "--url", f"ws://127.0.0.1:{process.port}", "--pid", process.pid]
    limit = EXTRA_SECONDS + (chosen.slow_seconds if case.scenario == "slow" else chosen.seconds)
    # In a process group of its own, with the server that it may start.
    done = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, said = done.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failure(f"it was not done within {limit:.0f} s") from None
    finally:
        try:
            os.killpg(done.pid, signal.SIGKILL)
        except ProcessLookupError:
            # All of it has ended, as it should.
            pass
        done.wait()
    result = json.loads(out) if out.startswith("{") else None
    said = said.strip().splitlines()
    if done.returncode != 0:
        return result, said[-1] if said else f"exit code {done.returncode}"
    if has_no_sample(result):
        # Its other figures are of nothing, too.
        return None, "nothing arrived while it was measured"
    return result, None


def has_no_sample(result):
    """Whether the distribution that the run is about is one of nothing."""
    about = {"fanout": "latency", "slow": "slow_age"}.get(result["scenario"])
    return about is not None and result[about] is None


def measure(chosen, case, name, profile, rate):
    """One row's measurement."""
    arguments = list(case.arguments)
    if case.name == "half":
        arguments += ["--rate", rate]
    elif case.name == "rate" and name != "tidegate":
        # The bare loop is the same for all: once is enough.
        arguments += ["--no-bare"]
    lowat = SYSCTL / "tcp_notsent_lowat"
    before = lowat.read_text()
    try:
        if case.is_lowat and profile == "freshness":
            lowat.write_text("16384")
        if name == "tidegate":
            result, error = bench(chosen, case, profile, arguments, None)
        else:
            server = Server(name, profile, chosen.server_cpu)
            try:
                result, error = bench(chosen, case, profile, arguments, (name, server))
                server.check()
            finally:
                server.stop()
    except Failure as failure:
        result, error = None, str(failure)
    finally:
        lowat.write_text(before)
    return {"result": result, "error": error}


def measure_all(chosen, rows):
    """Run by run, case by case, server by server, so that what else the machine does weighs on all."""
    begun = time.monotonic()
    subscribers = 100 if chosen.quick else SUBSCRIBERS
    for run in range(1, max(chosen.runs, chosen.long_runs) + 1):
        for case in chosen.list:
            if run > (chosen.long_runs if case.is_long else chosen.runs):
                continue
            rate = None
            if case.name == "half":
                # The same in all runs.
                known = [row["rate"] for row in rows.rows if row["case"] == "half"]
                rate = known[0] if known else half_rate(rows.rows, subscribers)
                if rate is None:
                    continue
            for name, profile in case.variants(chosen.names):
                key = {"case": case.name, "server": name, "profile": profile, "run": run}
                if rows.has(key):
                    continue
                if chosen.minutes and time.monotonic() - begun > chosen.minutes * 60:
                    return
                most = delivered(rows.rows, [name]).get(name)
                if rate and most is not None and most < rate * subscribers:
                    found = {"result": None, "error": f"not sustained: at most {most:,.0f} records/s"}
                else:
                    found = measure(chosen, case, name, profile, rate)
                rows.add({**key, "rate": rate, **found})
                note = f": {found['error']}" if found["error"] else ""
                print(f"{time.monotonic() - begun:6.0f} s  {run}  {case.name:15}{name:15}{profile}{note}", file=sys.stderr)


def machine():
    """What it ran on, and when."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {
        "cpu": f"{model}, {os.cpu_count()} CPUs",
        "kernel": os.uname().release,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["benches/peers/run", *(word for word in sys.argv[1:] if word != "--in-namespace")]),
    }


def main():
    """Everything."""
    chosen = options()
    if not chosen.in_namespace and not chosen.table:
        prepare(chosen)
    how = None
    if not chosen.table:
        how = {
            "binary": hashlib.sha256(chosen.tidegate.read_bytes()).hexdigest()[:16],
            "seconds": chosen.seconds,
            "slow_seconds": chosen.slow_seconds,
            "congestion": CONGESTION,
        }
    if chosen.fresh and not chosen.table:
        chosen.rows.unlink(missing_ok=True)
    rows = Rows(chosen.rows, how)
    is_stopped = False
    if not chosen.table:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        (SYSCTL / "tcp_congestion_control").write_text(CONGESTION)
        # Whatever ends this ends what it started.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            measure_all(chosen, rows)
        except KeyboardInterrupt:
            is_stopped = True
            print(f"stopped; {chosen.rows} has {len(rows.rows)} rows, and the same command goes on from there", file=sys.stderr)
    names = [name for name in NAMES if any(row["server"] == name for row in rows.rows)]
    text = table.markdown(rows.rows, names, chosen.list, machine(), {name: version(name, chosen.tidegate) for name in names})
    if chosen.out:
        chosen.out.write_text(text)
    else:
        print(text)
    if is_stopped:
        sys.exit(130)
    if chosen.check and (wrong := [row for row in rows.rows if row["error"] or missing(row)]):
        sys.exit(f"{len(wrong)} of {len(rows.rows)} rows are not right, first {json.dumps(wrong[0])[:600]}")


def missing(row):
    """Records that did not come."""
    clients = row["result"]["ledger"]["clients"] if row["result"] else {}
    return clients.get("lost", 0) + clients.get("overrun", 0)


if __name__ == "__main__":
    main()
