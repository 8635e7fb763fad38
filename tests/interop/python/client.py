"""The scenario that every client plays, for Python: `client.py URL PREFIX PLAN` prints its result as JSON.

`client.py URL PREFIX PLAN --faulty RELAY` subscribes through a relay that tampers with patches, and reports what it noticed.
"""

import asyncio
import json
import sys

from connection import Connection, record_of, wire

HIGH = 3
CREDIT = 16_384
# What the server keeps under way for any client that gives credit, so this much is used up for certain.
LITTLE_CREDIT = 4_096
# A frame is at most this long.
FRAME_BYTES = 65_536


def say(**line):
    print(json.dumps(line), flush=True)


def state(follower, prefix=b""):
    return [[key.decode(), value.decode()] for key, value in sorted(follower.keys.items()) if key.startswith(prefix)]


def important(follower):
    return [event.value.decode() for event in follower.events if event.priority >= HIGH]


def summary(follower):
    return {"state": state(follower), "checksum": f"{follower.checksum:08x}", "important_events": important(follower)}


def published(frame):
    return {"offset": frame.published.offset, "duplicate": frame.published.duplicate}


class Scenario:
    def __init__(self, url, prefix, plan):
        self.url, self.prefix, self.plan = url, prefix, plan
        self.faults = {"chain": 0, "checksum": 0, "counts": 0}
        self.result = {}

    def topic(self, name):
        return f"{self.prefix}/{name}"

    async def connect(self, **options):
        return await Connection.open(self.url, self.faults, **options)

    async def play(self):
        await self.hello()
        await self.book()
        await self.replace()
        await self.pattern()
        await self.unsubscribe()
        await self.resume()
        await self.filters()
        await self.windows()
        await self.takeover()
        await self.burst()
        await self.errors()
        await self.goodbye()
        self.result["faults"] = self.faults
        return self.result

    async def hello(self):
        self.publisher = await self.connect()
        welcome = self.publisher.welcome
        self.result["hello"] = {
            "protocol": self.publisher.protocol,
            "session_bytes": len(welcome.session),
            "heartbeat_ms": welcome.heartbeat_ms,
            "max_message_bytes": welcome.max_message_bytes,
        }

    async def book(self):
        self.subscriber = await self.connect()
        [answer] = await self.subscriber.subscribe(self.topic("book"))
        self.result["unknown_topic"] = {"topic_id": answer.subscribed.topic_id, "matching": answer.subscribed.matching}
        topic, writes = self.topic("book"), self.plan["book"]
        # All at once, and then the answers.
        requests = []
        for at, records in enumerate(writes):
            records = list(map(record_of, records))
            requests.append(await self.publisher.begin(publish=wire.Publish(topic=topic, records=records, sequence=at + 1)))
        offsets = [(await self.publisher.answered(request)).published.offset for request in requests]
        duplicate = await self.publisher.publish(topic, writes[-1], sequence=len(writes))
        old_duplicate = await self.publisher.publish(topic, writes[0], sequence=1)
        book = await self.at("book", offsets[-1])
        self.result["book"] = {
            "offsets": offsets,
            "duplicate": published(duplicate),
            "old_duplicate": published(old_duplicate),
            **summary(book),
            "all_events": len(book.events) + sum(book.totals[name] for name in ("expired", "overrun", "lost")),
        }

    async def at(self, name, offset, connection=None):
        """The topic's follower, when it is at the offset or beyond."""
        connection = connection or self.subscriber
        name = self.topic(name)
        await connection.until(lambda: name in connection.followers and connection.followers[name].is_at(offset))
        return connection.followers[name]

    async def replace(self):
        answer = await self.publisher.publish(self.topic("book"), self.plan["replace"], sequence=len(self.plan["book"]) + 1, replace=True)
        book = await self.at("book", answer.published.offset)
        refused = await self.publisher.publish(self.topic("book"), [{"value": "an event"}], replace=True)
        self.result["replace"] = {
            "offset": answer.published.offset,
            "state": state(book),
            "checksum": f"{book.checksum:08x}",
            "with_event": refused.error.code,
        }

    async def pattern(self):
        for name in ("side/a", "side/b"):
            await self.publisher.publish(self.topic(name), self.plan["aside"])
        answers = await self.subscriber.subscribe(self.topic("side/*"))
        answer = await self.publisher.publish(self.topic("side/c"), self.plan["aside"])
        names = ["side/a", "side/b", "side/c"]
        sides = [await self.at(name, answer.published.offset) for name in names]
        self.result["pattern"] = {
            "matching": answers[0].subscribed.matching,
            "first": sorted(self.relative(answer.subscribed.topic) for answer in answers),
            "later": [self.relative(subscribed.topic) for subscribed in self.subscriber.later if "/side/" in subscribed.topic],
            "each": [summary(side) for side in sides],
        }

    def relative(self, topic):
        return topic.removeprefix(self.prefix + "/")

    async def unsubscribe(self):
        answer = await self.subscriber.unsubscribe(self.topic("book"))
        before = self.subscriber.stray_patches
        await self.publisher.publish(self.topic("book"), self.plan["unseen"])
        behind = await self.publisher.publish(self.topic("side/a"), self.plan["aside"])
        await self.at("side/a", behind.published.offset)
        again = await self.subscriber.unsubscribe(self.topic("book"))
        self.result["unsubscribe"] = {
            "reason": answer.unsubscribed.reason,
            "patches_after": self.subscriber.stray_patches - before,
            "again": again.error.code,
        }

    async def resume(self):
        topic = self.topic("book")
        followers = {}
        connection = await self.connect(followers=followers)
        [answer] = await connection.subscribe(topic)
        book = await self.at("book", answer.subscribed.head, connection)
        position = wire.Position(epoch=book.epoch, offset=book.cursor)
        connection.drop()
        for records in self.plan["missed"]:
            answer = await self.publisher.publish(topic, records)
        head = answer.published.offset

        seen = len(book.patches)
        connection = await self.connect(followers=followers)
        [answer] = await connection.subscribe(topic, resume=position)
        await self.at("book", head, connection)
        self.result["resume"] = {
            "resumed": answer.subscribed.resumed,
            "continues": getattr(book.patches[seen], "from") == position.offset,
            **summary(book),
        }
        await connection.close()

        seen = len(book.patches)
        connection = await self.connect(followers=followers)
        [answer] = await connection.subscribe(topic, resume=wire.Position(epoch=book.epoch ^ 1, offset=book.cursor))
        await self.at("book", head, connection)
        self.result["stale_position"] = {
            "resumed": answer.subscribed.resumed,
            "reset": book.patches[seen].reset,
            **summary(book),
        }
        self.result["closed_by_client"] = await connection.close()

    async def filters(self):
        topic = self.topic("book")
        found = {}
        for name, options in (("min_priority", {"min_priority": HIGH}), ("key_prefix", {"key_prefix": b"bid/"})):
            connection = await self.connect()
            [answer] = await connection.subscribe(topic, events_only_new=True, **options)
            found[name] = await self.at("book", answer.subscribed.head, connection)
            await connection.close()
        self.result["filters"] = {
            **{name: state(follower) for name, follower in found.items()},
            "replayed_events": sum(len(follower.events) for follower in found.values()),
            "checksums": sum(follower.compared for follower in found.values()),
        }

    async def windows(self):
        calm, urgent = self.topic("calm"), self.topic("urgent")
        connection = await self.connect(credit=LITTLE_CREDIT)
        for topic in (calm, urgent):
            await connection.subscribe(topic)
        began = await self.publisher.publish(urgent, self.plan["aside"])
        await self.at("urgent", began.published.offset, connection)
        connection.is_holding = True
        # One record that uses the credit up, then what waits behind it.
        filler = await self.publisher.publish(calm, [self.plan["filler"]])
        await self.at("calm", filler.published.offset, connection)
        before = connection.patch_bytes
        waiting = await self.publisher.publish(calm, self.plan["windows"])
        alarm = await self.publisher.publish(urgent, self.plan["alarm"])
        begun = await self.publisher.ping()
        while await self.publisher.ping() < begun + 60_000:
            await asyncio.sleep(0.02)
        held = connection.patch_bytes - before
        seen = len(connection.arrivals)
        await connection.release()
        follower = await self.at("calm", waiting.published.offset, connection)
        alarmed = await self.at("urgent", alarm.published.offset, connection)
        result = {
            "while_out_of_credit": held,
            "first": self.relative(connection.arrivals[seen]),
            "alarms": important(alarmed),
            "expired": follower.totals["expired"],
            "important_events": important(follower),
        }
        # The key's window passes, and the server deletes it: one offset more.
        fading = await self.publisher.publish(calm, self.plan["fading"])
        await self.at("calm", fading.published.offset + 1, connection)
        result["fading"] = {"state": state(follower), "deleted": follower.cursor == fading.published.offset + 1}
        self.result["windows"] = result

    async def takeover(self):
        old, session = self.publisher, self.publisher.welcome.session
        self.publisher = await self.connect(session=session)
        close = await old.closed()
        writes = self.plan["book"]
        # What it may have left unanswered, as far as it knows.
        again = await self.publisher.publish(self.topic("book"), writes[-1], sequence=len(writes))
        self.result["takeover"] = {
            "same_session": self.publisher.welcome.session == session,
            "reason": old.go_away.reason,
            "reconnect_after_ms": old.go_away.reconnect_after_ms,
            "close": close,
            "resent_is_duplicate": again.published.duplicate,
        }

    async def burst(self):
        topic = self.topic("fast")
        eager = await self.connect(credit=CREDIT)
        await eager.subscribe(topic)
        stalled = await self.connect()
        await stalled.subscribe(topic)
        stalled.stall()
        requests = []
        for at, records in enumerate(self.plan["burst"]):
            records = list(map(record_of, records))
            requests.append(await self.publisher.begin(publish=wire.Publish(topic=topic, records=records, sequence=at + 1)))
            # As many unanswered as a busy publisher has.
            if at >= 64:
                await self.publisher.answered(requests[at - 64])
        head = (await self.publisher.answered(requests[-1])).published.offset
        stalled.go_on()
        with_credit, afterwards = await self.at("fast", head, eager), await self.at("fast", head, stalled)
        await eager.release()
        self.stalled = stalled
        self.result["burst"] = {
            "offset": head,
            "with_credit": {
                **summary(with_credit),
                "all_given_back": eager.given_back == eager.patch_bytes,
                "stayed_within": eager.most_unconfirmed < CREDIT + FRAME_BYTES,
            },
            "stalled": {**summary(afterwards), "merged": afterwards.totals["conflated"] >= self.plan["merged_at_least"]},
        }

    async def errors(self):
        bad = await self.publisher.ask(subscribe=wire.Subscribe(topic="not//a/topic"))
        pattern = await self.publisher.publish(self.topic("*"), self.plan["aside"])
        self.result["errors"] = {
            "bad_topic": bad.error.code,
            "pattern_published_to": pattern.error.code,
            "pong": await self.publisher.ping() is not None,
        }
        texting = await self.connect()
        await texting.socket.send("a text message")
        close = await texting.closed()
        self.result["text"] = {"error": texting.last_error.code, "close": close}
        silent = await self.connect(hello=False)
        await silent.send(ping=wire.Ping())
        close = await silent.closed()
        self.result["without_hello"] = {"error": silent.last_error.code, "close": close}

    async def goodbye(self):
        say(waiting=True)
        close = await self.stalled.closed()
        go_away = self.stalled.go_away
        self.result["goodbye"] = {"reason": go_away.reason, "comes_back": go_away.reconnect_after_ms > 0, "close": close}


async def faulty(scenario, relay):
    """Each publish is its own patch, so that the relay knows which one it tampers with."""
    publisher = await scenario.connect()
    topic = scenario.topic("faulty")
    connection = await Connection.open(relay, scenario.faults)
    await connection.subscribe(topic)
    for records in scenario.plan["faulty"]:
        answer = await publisher.publish(topic, records)
        follower = await scenario.at("faulty", answer.published.offset, connection)
    return {"faults": scenario.faults, "snapshots": follower.snapshots, **summary(follower)}


async def main(url, prefix, plan, *rest):
    with open(plan, encoding="utf-8") as file:
        scenario = Scenario(url, prefix, json.load(file))
    result = await (faulty(scenario, rest[1]) if rest else scenario.play())
    say(result=result)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
