"""A client for Python, written from docs/protocol.md, on `websockets`.

`Connection` speaks the protocol; a `Follower` is what is kept of a topic, and outlives its connection.
"""

import asyncio
import time
import zlib

from tidegate.v1 import tidegate_pb2 as wire
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

# Generous: nothing is measured here.
PATIENCE_SECONDS = 60


class Follower:
    """The state of one topic, by the rules for patches."""

    def __init__(self, name):
        self.name = name
        self.epoch = 0
        self.cursor = 0
        self.keys = {}
        self.checksum = 0
        self.is_current = False
        # After a fault, until the answer to subscribing anew.
        self.is_broken = False
        self.events = []
        self.handed_over = {}
        self.patches = []
        self.snapshots = 0
        self.compared = 0
        self.totals = {"conflated": 0, "expired": 0, "overrun": 0, "lost": 0, "filtered": 0}

    def subscribed(self, subscribed):
        self.epoch = subscribed.epoch
        self.is_broken = False
        self.is_current = False

    def apply(self, patch):
        """Returns the fault, if there is one."""
        if patch.reset:
            self.keys.clear()
            self.checksum = 0
            self.cursor = 0
            self.snapshots += 1
        if getattr(patch, "from") != self.cursor:
            return "chain"
        sent = len(patch.records) + patch.expired + patch.overrun + patch.lost + patch.filtered
        conflated = patch.to - self.cursor - sent
        for record in patch.records:
            self._record(record, record.offset or patch.to)
        for record in patch.ahead:
            self._record(record, record.offset)
        self.cursor = patch.to
        self.patches.append(patch)
        self.totals["conflated"] += conflated
        for name in ("expired", "overrun", "lost", "filtered"):
            self.totals[name] += getattr(patch, name)
        if conflated < 0:
            return "counts"
        if patch.HasField("checksum"):
            self.compared += 1
            if patch.checksum != self.checksum:
                return "checksum"
        self.is_current = not patch.more
        return None

    def _record(self, record, offset):
        if not record.key:
            if offset > self.handed_over.get(self.epoch, 0):
                self.handed_over[self.epoch] = offset
                self.events.append(record)
            return
        old = self.keys.pop(record.key, None)
        if old is not None:
            self.checksum -= term(record.key, old)
        if not record.delete:
            self.keys[record.key] = record.value
            self.checksum += term(record.key, record.value)
        self.checksum %= 2**32

    def is_at(self, offset):
        return self.is_current and not self.is_broken and self.cursor >= offset


def term(key, value):
    """What one key adds to the checksum."""
    return zlib.crc32(len(key).to_bytes(4, "little") + key + value)


class Connection:
    """One WebSocket, from Hello to its close code."""

    def __init__(self, faults, followers):
        self.faults = faults
        self.followers = followers
        self.topics = {}
        self.subscriptions = []
        self.answers = {}
        self.later = []
        self.go_away = None
        self.last_error = None
        self.close_code = None
        # Names of topics, patch by patch.
        self.arrivals = []
        self.stray_patches = 0
        self.patch_bytes = 0
        self.given_back = 0
        self.most_unconfirmed = 0
        self.is_holding = False
        self._requests = 0
        self._reading = asyncio.Event()
        self._reading.set()
        self._changed = asyncio.Condition()

    @classmethod
    async def open(cls, url, faults, *, followers=None, session=b"", credit=0, hello=True):
        self = cls(faults, {} if followers is None else followers)
        self.credit = credit
        # A queue of one: the library answers pings for whatever it queues, and what lies in a queue gets old.
        self.socket = await connect(url + "/v1/ws", subprotocols=["tidegate.v1"], compression=None, max_size=None, max_queue=1)
        self.protocol = self.socket.subprotocol
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: asyncio.ensure_future(self._tell()))
        if hello:
            self.welcome = (await self.ask(hello=wire.Hello(agent="interop-python", session=session, credit_bytes=credit))).welcome
        return self

    async def send(self, request=0, **body):
        await self.socket.send(wire.ClientFrame(request=request, **body).SerializeToString())

    async def begin(self, **body):
        """Sends a request, and returns its number."""
        self._requests += 1
        self.answers[self._requests] = []
        await self.send(self._requests, **body)
        return self._requests

    async def answered(self, request, count=1):
        await self.until(lambda: len(self.answers[request]) >= count)
        return self.answers[request][count - 1]

    async def ask(self, **body):
        return await self.answered(await self.begin(**body))

    async def publish(self, topic, records, sequence=0, replace=False):
        return await self.ask(publish=wire.Publish(topic=topic, records=map(record_of, records), sequence=sequence, replace=replace))

    async def subscribe(self, topic, **options):
        """The answers: one for each topic that matches now, or one error."""
        request = await self._begin_subscribing(topic, **options)
        first = await self.answered(request)
        if first.WhichOneof("body") == "subscribed":
            await self.answered(request, max(1, first.subscribed.matching))
        return self.answers[request]

    async def _begin_subscribing(self, topic, **options):
        if topic not in self.subscriptions:
            self.subscriptions.append(topic)
        return await self.begin(subscribe=wire.Subscribe(topic=topic, **options))

    async def unsubscribe(self, topic):
        return await self.ask(unsubscribe=wire.Unsubscribe(topic=topic))

    def _subscription(self, name):
        """Which subscription a topic is delivered under: the first that matches."""
        return next(pattern for pattern in self.subscriptions if matches(pattern, name))

    async def until(self, condition):
        """Waits until something that was received made the condition true."""
        # Not asked again: by now more may have come.
        if not await self._wait(condition):
            raise RuntimeError(f"closed with {self.close_code} while waiting; last error: {self.last_error}")

    async def closed(self):
        await self._wait(lambda: False)
        return self.close_code

    async def _wait(self, condition):
        """Until the condition holds, or nothing more will come; returns whether it held."""
        held = False

        def is_over():
            nonlocal held
            held = condition()
            return held or self._reader.done()

        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(is_over), PATIENCE_SECONDS)
        if not held:
            self._reader.result()
        return held

    def stall(self):
        """Reads nothing more: the library's queue fills, then the receive buffer."""
        self._reading.clear()

    def go_on(self):
        self._reading.set()

    async def close(self):
        await self.socket.close(1000)
        return await self.closed()

    def drop(self):
        """Is gone without a close frame."""
        self.socket.transport.abort()

    async def release(self):
        """Gives back the credit that was held."""
        self.is_holding = False
        await self._give_back(0)

    async def _read(self):
        try:
            while True:
                await self._reading.wait()
                message = await self.socket.recv()
                frame = wire.ServerFrame.FromString(message)
                await self._take(frame, len(message))
                await self._tell()
        except ConnectionClosed as closed:
            self.close_code = closed.rcvd.code if closed.rcvd else 1006

    async def _tell(self):
        async with self._changed:
            self._changed.notify_all()

    async def _take(self, frame, size):
        body = frame.WhichOneof("body")
        if body == "patch":
            self.patch_bytes += size
            self.most_unconfirmed = max(self.most_unconfirmed, self.patch_bytes - self.given_back)
            await self._patch(frame.patch)
            if self.credit:
                await self._give_back(min(1024, self.credit // 4))
            return
        if body == "subscribed" and frame.subscribed.topic_id:
            self._subscribed(frame.subscribed)
        elif body == "unsubscribed":
            left = frame.unsubscribed.topic
            self.topics = {id: at for id, at in self.topics.items() if self._subscription(at.name) != left}
            self.subscriptions.remove(left)
        elif body == "go_away":
            self.go_away = frame.go_away
        elif body == "error":
            self.last_error = frame.error
        if frame.request:
            self.answers[frame.request].append(frame)
        elif body == "subscribed":
            self.later.append(frame.subscribed)

    def _subscribed(self, subscribed):
        follower = self.followers.setdefault(subscribed.topic, Follower(subscribed.topic))
        self.topics[subscribed.topic_id] = follower
        follower.subscribed(subscribed)

    async def _patch(self, patch):
        follower = self.topics.get(patch.topic_id)
        if follower is None:
            self.stray_patches += 1
            return
        if follower.is_broken:
            return
        self.arrivals.append(follower.name)
        fault = follower.apply(patch)
        if fault:
            self.faults[fault] += 1
            follower.is_broken = True
            await self._begin_subscribing(self._subscription(follower.name))

    async def _give_back(self, at_least):
        owed = self.patch_bytes - self.given_back
        if owed and owed >= at_least and not self.is_holding:
            self.given_back += owed
            await self.send(credit=wire.Credit(bytes=owed))

    async def ping(self):
        """The server's clock, if the pong is the ping's."""
        mine = time.time_ns() // 1000
        pong = (await self.ask(ping=wire.Ping(client_time_us=mine))).pong
        return pong.server_time_us if pong.client_time_us == mine else None


def matches(pattern, name):
    """`*` stands for one segment, a last `**` for one or more."""
    wanted, segments = pattern.split("/"), name.split("/")
    if wanted[-1] == "**" and len(segments) >= len(wanted):
        wanted, segments = wanted[:-1], segments[: len(wanted) - 1]
    return len(wanted) == len(segments) and all(one in ("*", segment) for one, segment in zip(wanted, segments))


def record_of(record):
    """A record of the plan, for the wire."""
    return wire.Record(
        key=record.get("key", "").encode(),
        value=record.get("value", "").encode(),
        delete=record.get("delete", False),
        priority=record.get("priority", 0),
        window_ms=record.get("window_ms", 0),
    )
