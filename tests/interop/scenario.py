"""What the clients publish, and a model of a topic that says what they must see.

A record is a JSON object with the fields of `Record` that are not empty: `key`, `value` (text, UTF-8 on the wire), `delete`,
`priority` and `window_ms` (numbers). Everybody publishes the same; the model knows nothing of the engine.
"""

import random
import zlib

NORMAL, HIGH, CRITICAL = 2, 3, 4
# UTF-8 of several lengths and a zero byte: keys and values are bytes, and must come back as they were.
VALUES = ["100.5", "", "7", "größe", "価格", "\U0001f4c8", "nul\0nul", "x" * 300]


def scenario(seed):
    """Everything that is published, by step."""
    chance = random.Random(seed)
    book = [_publish(chance) for _ in range(40)]
    return {
        "book": book,
        "replace": _replacement(book),
        "aside": [{"key": "open", "value": "101"}, {"value": "began", "priority": HIGH}],
        "unseen": [{"key": "bid/1", "value": "after the unsubscribe"}, {"value": "unseen", "priority": HIGH}],
        "missed": [_publish(chance) for _ in range(25)],
        "filler": {"key": "filler", "value": "f" * 4200},
        "windows": [
            {"value": "short", "window_ms": 50, "priority": HIGH},
            {"value": "long", "window_ms": 600_000, "priority": HIGH},
            {"value": "kept", "priority": CRITICAL},
        ],
        "alarm": [{"value": "alarm", "priority": CRITICAL}],
        "fading": [{"key": "fading", "value": "soon gone", "window_ms": 80}],
        "burst": _burst(chance),
        # Of the 1,500 values a reader that stalled throughout is sent its window's and the last of each key. One that reads is sent
        # most of them.
        "merged_at_least": 1_000,
        "faulty": [[{"key": f"k{at % 3}", "value": f"value {at}"}, {"value": f"event {at}", "priority": CRITICAL}] for at in range(10)],
    }


def _publish(chance):
    records = []
    for _ in range(chance.randint(1, 6)):
        kind = chance.random()
        key = f"{chance.choice(['bid', 'ask', 'größe'])}/{chance.randint(1, 9)}"
        if kind < 0.55:
            records.append({"key": key, "value": chance.choice(VALUES)})
        elif kind < 0.65:
            records.append({"key": key, "value": chance.choice(VALUES), "priority": HIGH})
        elif kind < 0.75:
            records.append({"key": key, "delete": True})
        else:
            priority = chance.choice([0, 1, NORMAL, HIGH, CRITICAL])
            event = {"value": f"event {chance.getrandbits(32):08x}"}
            records.append(event | ({"priority": priority} if priority else {}))
    return records


def _replacement(publishes):
    """A state in which some keys of the book stay, some change and one is new; the others go."""
    book = Topic()
    for records in publishes:
        book.publish(records)
    keys = sorted(book.state)
    kept = [{"key": key, "value": book.state[key]} for key in keys[::3]]
    changed = [{"key": key, "value": "replaced"} for key in keys[1::3]]
    return kept + changed + [{"key": "bid/new", "value": "new", "priority": HIGH}]


def _burst(chance):
    """Half a megabyte: forty keys written over and over, and now and then an event that must arrive."""
    publishes = []
    for at in range(1_500):
        records = [{"key": f"level {chance.randint(0, 39)}", "value": f"{at} " + "." * chance.randint(100, 500)}]
        if at % 10 == 0:
            records.append({"value": f"trade {at}", "priority": CRITICAL})
        publishes.append(records)
    return publishes


class Topic:
    """A topic as its publisher knows it."""

    def __init__(self):
        self.head = 0
        self.state = {}
        self.priorities = {}
        self.events = []

    def publish(self, records):
        """The offset of the last record."""
        for record in records:
            self.head += 1
            key, priority = record.get("key"), record.get("priority") or NORMAL
            if key is None:
                self.events.append((priority, record["value"]))
            elif record.get("delete"):
                self.state.pop(key, None)
                self.priorities.pop(key, None)
            else:
                self.state[key], self.priorities[key] = record["value"], priority
        return self.head

    def replace(self, records):
        """Only what changed takes an offset."""
        wanted = {record["key"]: record for record in records}
        gone = [{"key": key, "delete": True} for key in self.state if key not in wanted]
        return self.publish(gone + [record for key, record in wanted.items() if self.state.get(key) != record["value"]])

    def checksum(self):
        """As docs/protocol.md has it, in hexadecimal."""
        return checksum(self.state)

    def pairs(self, choose=lambda _: True):
        """The chosen keys with their values, in order of their bytes."""
        return [[key, value] for key, value in sorted(self.state.items(), key=lambda pair: pair[0].encode()) if choose(key)]

    def important(self):
        """The events that nobody may miss."""
        return [value for priority, value in self.events if priority >= HIGH]


def checksum(state):
    """The sum of the keys' CRC-32 terms."""
    total = 0
    for key, value in state.items():
        key = key.encode()
        total += zlib.crc32(len(key).to_bytes(4, "little") + key + value.encode())
    return f"{total % 2**32:08x}"


def expected(plan):
    """The result of each client, from what was published alone."""
    result = {
        "hello": {"protocol": "tidegate.v1", "session_bytes": 16, "heartbeat_ms": 25_000, "max_message_bytes": 65_536},
        "unknown_topic": {"topic_id": 0, "matching": 0},
    }
    book = Topic()
    offsets = [book.publish(records) for records in plan["book"]]
    result["book"] = {
        "offsets": offsets,
        "duplicate": {"offset": book.head, "duplicate": True},
        "old_duplicate": {"offset": 0, "duplicate": True},
        "state": book.pairs(),
        "checksum": book.checksum(),
        "important_events": book.important(),
        "all_events": len(book.events),
    }
    result["replace"] = {"offset": book.replace(plan["replace"]), "state": book.pairs(), "checksum": book.checksum(), "with_event": 1}
    aside = Topic()
    aside.publish(plan["aside"])
    one = {"state": aside.pairs(), "checksum": aside.checksum(), "important_events": aside.important()}
    result["pattern"] = {"matching": 2, "first": ["side/a", "side/b"], "later": ["side/c"], "each": [one] * 3}
    book.publish(plan["unseen"])
    result["unsubscribe"] = {"reason": 0, "patches_after": 0, "again": 4}
    for records in plan["missed"]:
        book.publish(records)
    follow = {"state": book.pairs(), "checksum": book.checksum(), "important_events": book.important()}
    result["resume"] = {"resumed": True, "continues": True} | follow
    result["stale_position"] = {"resumed": False, "reset": True} | follow
    result["filters"] = {
        "min_priority": book.pairs(lambda key: book.priorities[key] >= HIGH),
        "key_prefix": book.pairs(lambda key: key.startswith("bid/")),
        "replayed_events": 0,
        "checksums": 0,
    }
    result["windows"] = {
        "while_out_of_credit": 0,
        "first": "urgent",
        "alarms": ["began", "alarm"],
        "expired": 1,
        "important_events": ["long", "kept"],
        "fading": {"state": [["filler", plan["filler"]["value"]]], "deleted": True},
    }
    result["takeover"] = {"same_session": True, "reason": 10, "reconnect_after_ms": 0, "close": 4500, "resent_is_duplicate": True}
    fast = Topic()
    for records in plan["burst"]:
        fast.publish(records)
    follow = {"checksum": fast.checksum(), "state": fast.pairs(), "important_events": fast.important()}
    result["burst"] = {
        "offset": fast.head,
        "with_credit": follow | {"all_given_back": True, "stayed_within": True},
        "stalled": follow | {"merged": True},
    }
    result["errors"] = {"bad_topic": 1, "pattern_published_to": 1, "pong": True}
    result["text"] = {"error": 1, "close": 1003}
    result["without_hello"] = {"error": 1, "close": 1002}
    result["closed_by_client"] = 1000
    result["goodbye"] = {"reason": 11, "comes_back": True, "close": 1001}
    result["faults"] = {"chain": 0, "checksum": 0, "counts": 0}
    return result


def expected_of_faulty(plan, kind):
    """What a client reports whose patches were tampered with on their way, and what it holds in the end."""
    topic = Topic()
    for records in plan["faulty"]:
        topic.publish(records)
    faults = {"chain": 0, "checksum": 0, "counts": 0} | {{"value": "checksum", "gap": "chain", "twice": "chain"}[kind]: 1}
    return {"faults": faults, "snapshots": 2, "state": topic.pairs(), "checksum": topic.checksum(), "important_events": topic.important()}
