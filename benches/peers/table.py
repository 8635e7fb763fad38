"""The rows as tables in Markdown: medians, with the spread beside them; nobody's losses are left out."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure: its heading, the path to it, how it is written."""

    head: str
    path: str
    form: str = "{:.2f}"
    scale: float = 1.0
    # Whether more of it is better; `None`: neither is.
    more_is_better: bool | None = False

    def text(self, cell, ours, is_spread):
        """One server's, in bold where it is better than ours."""
        text = cell.text(self.form, self.scale, is_spread)
        if self.more_is_better is None or not cell or not ours:
            return text
        is_better = cell.median > ours.median if self.more_is_better else cell.median < ours.median
        return f"**{text}**" if is_better else text


class Section:
    """The table of one case; the first column is what is compared."""

    def __init__(self, title, columns):
        self.title = title
        self.columns = columns

    def markdown(self, groups):
        """The table, best first."""
        first = self.columns[0]
        own = groups.get(("tidegate", "default"), Group([]))

        def rank(item):
            cell = item[1].cell(first.path)
            return (not cell, (-cell.median if first.more_is_better else cell.median) if cell else 0)

        lines = []
        for (name, profile), group in sorted(groups.items(), key=rank):
            is_own = name == "tidegate"
            figures = [
                column.text(group.cell(column.path), Cell([]) if is_own else own.cell(column.path), at == 0)
                for at, column in enumerate(self.columns)
            ]
            is_measure = is_own and profile == "default"
            times = "1" if is_measure else ratio(own.cell(first.path), group.cell(first.path), first.more_is_better)
            lines.append([f"{TITLES[name]}, {profile}", *figures, str(len(group.rows)), times, group.notes()])
        head = ["server, settings", *(column.head for column in self.columns), "runs", "Tidegate is better by", "notes"]
        return f"### {self.title}\n\n" + grid(head, lines)


LATENCY = [Column("latency p50, ms", "latency.p50_ms"), Column("latency p99, ms", "latency.p99_ms")]
P999 = Column("latency p99.9, ms", "latency.p999_ms")
BUSY = Column("server busy, %", "server_busy_percent", "{:.0f}", more_is_better=None)
PER_SECOND = Column("millions delivered per second", "delivered_per_second", scale=1e-6, more_is_better=True)
PER_CPU = Column(
    "millions delivered per server CPU second", "delivered_per_cpu_second", scale=1e-6, more_is_better=True
)
PER_DELIVERY = Column("server CPU per delivery, µs", "cpu_ns_per_delivery", scale=1e-3)
BARE = [
    Column("bare send(2), µs", "bare_ns_per_send", scale=1e-3, more_is_better=None),
    Column("delivery / bare", "ratio_to_bare"),
]


def sections(rate):
    """What is shown of each case."""
    return {
        "saturation-64": Section("Saturation, 64 publishes outstanding", [PER_CPU, PER_SECOND, BUSY, *LATENCY, P999]),
        "saturation-256": Section("Saturation, 256 publishes outstanding", [PER_CPU, PER_SECOND, BUSY, *LATENCY, P999]),
        "rate": Section("100 events a second", [PER_DELIVERY, *LATENCY, P999, BUSY, *BARE]),
        "half": Section(
            f"Half of the best peer's saturation rate: {rate} events a second to everyone",
            [P999, *LATENCY, PER_DELIVERY, BUSY],
        ),
        "slow": Section(
            "Slow readers: age of what the slow ones hold",
            [
                Column("p99 age, slow, s", "slow_age.p99_ms", scale=1e-3),
                Column("... last quarter, s", "slow_age_last_quarter.p99_ms", scale=1e-3),
                Column("p99 age, healthy, ms", "healthy_age.p99_ms", "{:.1f}"),
                Column("memory at first, MB", "rss_first_mb", "{:.0f}"),
                Column("at last, MB", "rss_last_mb", "{:.0f}"),
                Column("server, % of a core", "server_cpu_percent", "{:.0f}"),
            ],
        ),
        "depth": Section(
            "The recorded market x 20 to dashboards: bytes on the wire beside JSON",
            [
                Column("of what JSON takes", "ratio_to_json", "{:.3f}"),
                Column("bytes per dashboard and second", "bytes_per_dashboard_second", "{:.0f}"),
                Column(
                    "JSON through a peer, one message for each update",
                    "json_bytes_per_dashboard_second",
                    "{:.0f}",
                    more_is_better=None,
                ),
                BUSY,
            ],
        ),
        "idle": Section(
            "Memory of an idle subscriber",
            [
                Column("bytes each", "bytes_per_connection", "{:.0f}"),
                Column("subscribers", "connections", "{:.0f}", more_is_better=None),
                Column("server, % of a core", "server_cpu_percent"),
            ],
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
        f"process. At saturation a figure counts only where the server was at least {BUSY_PERCENT} % busy: its busiest thread on its "
        "CPU or waiting for it, or all its threads together on the one CPU that they have. **What stands in bold is better than "
        "Tidegate's.** Latency is from the moment "
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
