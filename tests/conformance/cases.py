"""Runs the Autobahn cases against `BINARY echo` and judges them: nothing failed, nothing non-strict, none left out."""

import asyncio
import collections
import signal
import subprocess
import sys

from kosoku import FailureError, run_fuzzingclient
from kosoku._report import write_reports

# Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, limits and performance, the rest. 12 and 13 are of
# permessage-deflate, which Tidegate does not negotiate; 8 and 11 do not exist.
GROUPS = [1, 2, 3, 4, 5, 6, 7, 9, 10]
# How many cases these groups have, so that none goes missing unnoticed.
CASES = 301
# The suite leaves open what is right in its informational cases.
GOOD = {"OK", "INFORMATIONAL"}
# All of them; they take some twenty seconds.
TIME_LIMIT_S = 600
# The longest that a shutdown may take.
SHUTDOWN_S = 30


async def results(address):
    """What became of each case."""
    run = run_fuzzingclient(address, [f"{group}.*" for group in GROUPS], [])
    try:
        return await asyncio.wait_for(run, TIME_LIMIT_S)
    except FailureError as failure:
        # It carries the results of all cases.
        return failure.results


def seconds_by_group(judged):
    """How long each group took, for whoever watches for what grows faster than it should."""
    seconds = collections.Counter()
    for case in judged:
        seconds[case.case_id.split(".")[0]] += case.duration / 1000
    return ", ".join(f"{group}.*: {seconds[str(group)]:.1f}" for group in GROUPS)


def main(binary, reports):
    server = subprocess.Popen([binary, "echo", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit(f"{binary} echo does not listen: it said {line!r}")
        judged = asyncio.run(results(line.removeprefix("listening on ").strip()))
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(SHUTDOWN_S)

    write_reports(judged, reports)
    failed = [case for case in judged if not {case.behavior.value, case.behavior_close.value} <= GOOD]
    for case in failed:
        print(f"{case.case_id}: {case.behavior.value}, close {case.behavior_close.value}: {case.result} {case.result_close}")
    slowest = max(judged, key=lambda case: case.duration)
    print(f"seconds: {seconds_by_group(judged)}; slowest: {slowest.case_id} with {slowest.duration / 1000:.2f}")
    if len(judged) != CASES:
        print(f"{len(judged)} cases ran, not {CASES}")
    if ended != 0:
        print(f"the server ended with {ended}")
    print(f"{len(judged) - len(failed)} passed, {len(failed)} failed")
    return bool(failed) or len(judged) != CASES or ended != 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
