"""The rows as tables in Markdown: medians, with the spread beside them; nobody's losses are left out."""

import statistics

from cases import BUSY_PERCENT
from servers import SETTINGS, TITLES


class Cell:
    """One figure of one server and profile: the median of its runs."""

    def __init__(self, values):
        self.values = [value for value in values if value is not None]

    def __bool__(self):
        return bool(self.values)

    @property
    def median(self):
        """Of all runs."""
        return statistics.median(self.values)

    def text(self, form="{:.2f}", scale=1.0, is_spread=False):
        """The median, and if wanted the smallest and the largest."""
        if not self.values:
            return "—"
        text = form.format(self.median * scale)
        if is_spread and len(self.values) > 1:
            text += f" ({form.format(min(self.values) * scale)}–{form.format(max(self.values) * scale)})"
        return text


def pick(result, path):
    """A figure by the names that lead to it; `None` where there is none."""
    for name in path.split("."):
        result = result.get(name) if isinstance(result, dict) else None
    return result


class Group:
    """The rows of one server and profile in one case."""

    def __init__(self, rows):
        self.rows = rows

    def cell(self, path):
        """A figure of theirs."""
        return Cell(pick(row["result"], path) for row in self.rows if row["result"])

    def notes(self):
        """What went wrong, and which records are missing."""
        notes = []
        idle = [row for row in self.rows if row["result"] and row["result"].get("counts") is False]
        if idle:
            notes.append(f"the server was not saturated in {len(idle)} of {len(self.rows)}: a lower bound")
        for row in self.rows:
            ledger = (row["result"] or {}).get("ledger")
            missing = ledger["clients"]["lost"] + ledger["clients"]["overrun"] if ledger else 0
            if missing:
                notes.append(f"{missing / max(ledger['due'], 1):.1%} of the records did not come")
            elif row["error"]:
                notes.append(row["error"])
            if ledger and ledger["misplaced"]:
                notes.append(f"{ledger['misplaced']} came twice or out of order")
        # Each once, the most frequent first.
        return "; ".join(sorted(set(notes), key=notes.count, reverse=True)[:3])


def ratio(ours, theirs, more_is_better):
    """How many times better ours is: under 1 we lose."""
    if not ours or not theirs or not theirs.median or not ours.median:
        return "—"
    times = ours.median / theirs.median if more_is_better else theirs.median / ours.median
    return f"{times:.2f}" + (" **(we lose)**" if times < 1 else "")


def grid(head, lines):
    """A table."""
    rows = [head, ["---"] + ["---:"] * (len(head) - 2) + ["---"], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


class Section:
    """The table of one case: columns are a heading, the figure's path, its form, its scale; the first is what is compared."""

    def __init__(self, title, columns, more_is_better):
        self.title = title
        self.columns = columns
        self.more_is_better = more_is_better

    def markdown(self, groups):
        """The table, best first."""
        path = self.columns[0][1]
        ours = groups.get(("tidegate", "default"))
        ours = ours.cell(path) if ours else Cell([])

        def rank(item):
            cell = item[1].cell(path)
            return (not cell, (-cell.median if self.more_is_better else cell.median) if cell else 0)

        lines = []
        for (name, profile), group in sorted(groups.items(), key=rank):
            first = group.cell(path)
            figures = [group.cell(path).text(form, scale, at == 0) for at, (_, path, form, scale) in enumerate(self.columns)]
            beside = "1" if name == "tidegate" and profile == "default" else ratio(ours, first, self.more_is_better)
            lines.append([f"{TITLES[name]}, {profile}", *figures, str(len(group.rows)), beside, group.notes()])
        head = ["server, settings", *(column[0] for column in self.columns), "runs", "Tidegate is better by", "notes"]
        return f"### {self.title}\n\n" + grid(head, lines)


MILLIONS = "{:.2f}"
LATENCY = [(f"latency {name}, ms", f"latency.{key}_ms", "{:.2f}", 1) for name, key in (("p50", "p50"), ("p99", "p99"))]
P999 = ("latency p99.9, ms", "latency.p999_ms", "{:.2f}", 1)
BUSY = ("server busy, %", "server_busy_percent", "{:.0f}", 1)
PER_SECOND = ("millions delivered per second", "delivered_per_second", "{:.2f}", 1e-6)
PER_CPU = ("millions delivered per server CPU second", "delivered_per_cpu_second", MILLIONS, 1e-6)
PER_DELIVERY = ("server CPU per delivery, µs", "cpu_ns_per_delivery", "{:.2f}", 1e-3)
BARE = [("bare send(2), µs", "bare_ns_per_send", "{:.2f}", 1e-3), ("delivery / bare", "ratio_to_bare", "{:.2f}", 1)]


def sections(rate):
    """What is shown of each case."""
    memory = [("memory at first, MB", "rss_first_mb", "{:.0f}", 1), ("at last, MB", "rss_last_mb", "{:.0f}", 1)]
    return {
        "saturation-64": Section(
            "Saturation, 64 publishes outstanding", [PER_CPU, PER_SECOND, BUSY, *LATENCY, P999], True
        ),
        "saturation-256": Section(
            "Saturation, 256 publishes outstanding", [PER_CPU, PER_SECOND, BUSY, *LATENCY, P999], True
        ),
        "rate": Section("100 events a second", [PER_DELIVERY, *LATENCY, P999, BUSY, *BARE], False),
        "half": Section(
            f"Half of the best peer's saturation rate: {rate} events a second to everyone", [P999, *LATENCY, PER_DELIVERY, BUSY], False
        ),
        "slow": Section(
            "Slow readers: age of what the slow ones hold",
            [
                ("p99 age, slow, s", "slow_age.p99_ms", "{:.2f}", 1e-3),
                ("... last quarter, s", "slow_age_last_quarter.p99_ms", "{:.2f}", 1e-3),
                ("p99 age, healthy, ms", "healthy_age.p99_ms", "{:.1f}", 1),
                *memory,
                ("server, % of a core", "server_cpu_percent", "{:.0f}", 1),
            ],
            False,
        ),
        "depth": Section(
            "The recorded market x 20 to dashboards: bytes on the wire beside JSON",
            [
                ("of what JSON takes", "ratio_to_json", "{:.3f}", 1),
                ("bytes per dashboard and second", "bytes_per_dashboard_second", "{:.0f}", 1),
                ("JSON through a peer, one message for each update", "json_bytes_per_dashboard_second", "{:.0f}", 1),
                BUSY,
            ],
            False,
        ),
        "idle": Section(
            "Memory of an idle subscriber",
            [
                ("bytes each", "bytes_per_connection", "{:.0f}", 1),
                ("subscribers", "connections", "{:.0f}", 1),
                ("server, % of a core", "server_cpu_percent", "{:.2f}", 1),
            ],
            False,
        ),
    }


def explained(rows):
    """What a case does, from the figures that it reports itself."""
    first = next((row["result"] for row in rows if row["result"]), None)
    if not first:
        return ""
    if first["scenario"] == "fanout":
        return f"{first['subscribers']:,} subscribers, events of 128 bytes, {first['seconds']:.1f} s measured. "
    if first["scenario"] == "depth":
        return f"{first['dashboards']:,} dashboards, each with all topics; played: {first['source']}. "
    if first["scenario"] == "slow":
        return (
            f"{first['subscribers']} subscribers, {first['rate']:,} records/s of 20 keys, 128 bytes each; {first['slow']} of them "
            f"read {first['slow_rate']:,} bytes/s; {first['seconds']} s. "
        )
    return ""


def markdown(rows, names, cases, machine, versions):
    """The whole document."""
    rate = next((row["rate"] for row in rows if row["case"] == "half"), None)
    parts = [
        "# Tidegate and its peers\n",
        f"Measured on {machine['date']}: {machine['cpu']}, Linux {machine['kernel']}, loopback, congestion control cubic on both sides. "
        "Each server is one process on one CPU, the load generator (`tidegate bench`) runs on another; the servers take turns in every "
        "run, figures are medians, with the smallest and the largest in parentheses. CPU time is that of all threads of the server's "
        f"process. At saturation a figure counts only where the server was at least {BUSY_PERCENT} % busy. Latency is from the moment "
        "that an event was due to the moment that it was read; of Tidegate, one value for each patch, the worst in it. A peer's record "
        "is its value alone; Tidegate's keyed records carry their key too.\n",
        f"```sh\n{machine['command']}\n```\n",
    ]
    for case in cases:
        of_case = [row for row in rows if row["case"] == case.name]
        section = sections(rate).get(case.name)
        if not of_case or not section:
            continue
        groups = {}
        for row in of_case:
            groups.setdefault((row["server"], row["profile"]), []).append(row)
        heading, body = section.markdown({key: Group(some) for key, some in groups.items()}).split("\n\n", 1)
        parts.append(f"{heading}\n\n{explained(of_case)}\n\n{body}" if explained(of_case) else f"{heading}\n\n{body}")
    parts.append("### Versions and settings\n")
    lines = [
        [TITLES[name], versions[name], profile, text] for name in names for profile, text in SETTINGS[name].items()
    ]
    parts.append(grid(["server", "version", "profile", "what is set"], lines))
    parts.append("In the profile `freshness` the system has `net.ipv4.tcp_notsent_lowat` = 16384, for all of them.\n")
    return "\n".join(parts)
