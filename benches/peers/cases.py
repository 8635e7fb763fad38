"""What is measured: which load, on whom, with which settings."""

import dataclasses
import resource
import statistics

from servers import PEERS

BYTES = 128
SUBSCRIBERS = 1_000
# Of the server's CPU at saturation; below that the load generator may be what limits.
BUSY_PERCENT = 95


@dataclasses.dataclass(frozen=True)
class Case:
    """One load."""

    name: str
    scenario: str
    arguments: tuple
    # Of peers.
    profiles: tuple
    # Of Tidegate; "credit" is a way to be its client.
    own_profiles: tuple = ("default",)
    # Run once, or as often as the other long ones.
    is_long: bool = False
    # System settings in the profile that is tuned for freshness.
    is_lowat: bool = False

    def variants(self, names):
        """Servers and their profiles."""
        for name in names:
            for profile in self.own_profiles if name == "tidegate" else self.profiles:
                yield name, profile


def idle_connections():
    """10,000 where so many descriptors are allowed, else 2,000."""
    return 10_000 if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 12_000 else 2_000


def cases(seconds, slow_seconds, is_quick):
    """All of them, in order; the rate of `half` is known after saturation."""
    subscribers = 100 if is_quick else SUBSCRIBERS
    fanout = ("--subscribers", subscribers, "--bytes", BYTES, "--seconds", seconds, "--warm-up", 0.5 if is_quick else 1)
    tuned = ("default", "throughput")
    connections = 500 if is_quick else idle_connections()
    slow = ("--subscribers", 300, "--slow", 30, "--slow-rate", 20_000, "--rate", 1_000, "--keys", 20, "--bytes", BYTES)
    return [
        Case("saturation-64", "fanout", (*fanout, "--outstanding", 64), tuned),
        Case("saturation-256", "fanout", (*fanout, "--outstanding", 256), tuned),
        Case("rate", "fanout", (*fanout, "--rate", 100), ("default",)),
        Case("half", "fanout", (*fanout, "--no-bare"), ("throughput",)),
        Case(
            "slow",
            "slow",
            (*slow, "--seconds", slow_seconds, "--warm-up", 1, "--no-baseline"),
            ("default", "freshness"),
            ("default", "credit"),
            is_long=True,
            is_lowat=True,
        ),
        # What the same updates are as JSON is the same through every peer that sends what it is given.
        Case("depth", "depth", ("--speed", 20, "--dashboards", subscribers, "--seconds", seconds), (), is_long=True),
        Case("idle", "idle", ("--connections", connections, "--settle", 1), ("default",), is_long=True),
    ]


def delivered(rows, names, case_prefix="saturation"):
    """The median of records delivered per second and profile, by server: the best of its profiles and saturation cases."""
    found = {}
    for row in rows:
        if row["case"].startswith(case_prefix) and row["server"] in names and row.get("result"):
            key = (row["server"], row["case"], row["profile"])
            found.setdefault(key, []).append(row["result"]["delivered_per_second"])
    best = {}
    for (server, _, _), values in found.items():
        best[server] = max(best.get(server, 0), statistics.median(values))
    return best


def half_rate(rows, subscribers):
    """Publishes per second at half of what the best peer delivers at saturation; `None` if no peer was measured."""
    best = max(delivered(rows, PEERS).values(), default=0)
    return max(1, round(best / subscribers / 2)) if best else None
