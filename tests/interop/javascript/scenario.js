// The scenario that every client plays, for JavaScript. `platform` is what differs between Node and a browser: `WebSocket`, `agent`,
// `say` (a line for the driver) and `stalled` (a reader that can stop reading).

import { Connection, recordOf } from "./connection.js";

const HIGH = 3;
const CREDIT = 16_384;
// What the server keeps under way for any client that gives credit, so this much is used up for certain.
const LITTLE_CREDIT = 4_096;
// A frame is at most this long.
const FRAME_BYTES = 65_536;

const text = (bytes) => new TextDecoder().decode(bytes);
const hex = (number) => number.toString(16).padStart(8, "0");

function state(follower) {
  const sorted = [...follower.keys].sort(([one], [other]) => (one < other ? -1 : 1));
  return sorted.map(([, { key, value }]) => [text(key), text(value)]);
}

function important(follower) {
  return follower.events.filter((event) => event.priority >= HIGH).map((event) => text(event.value));
}

export function summary(follower) {
  return { state: state(follower), checksum: hex(follower.checksum), important_events: important(follower) };
}

const published = ({ offset, duplicate }) => ({ offset: Number(offset), duplicate });

export class Scenario {
  constructor(platform, url, prefix, plan) {
    Object.assign(this, { platform, url, prefix, plan });
    this.faults = { chain: 0, checksum: 0, counts: 0 };
    this.result = {};
  }

  topic(name) {
    return `${this.prefix}/${name}`;
  }

  relative(topic) {
    return topic.slice(this.prefix.length + 1);
  }

  connect(options = {}, url = this.url) {
    return Connection.open(this.platform.WebSocket, url, this.faults, { agent: this.platform.agent, ...options });
  }

  /** The topic's follower, when it is at the offset or beyond. */
  async at(name, offset, connection = this.subscriber) {
    const find = () => connection.followers.get(this.topic(name));
    await connection.until(() => find()?.isAt(Number(offset)));
    return find();
  }

  async play() {
    await this.hello();
    await this.book();
    await this.replace();
    await this.pattern();
    await this.unsubscribe();
    await this.resume();
    await this.filters();
    await this.windows();
    await this.takeover();
    await this.burst();
    await this.errors();
    await this.goodbye();
    return { ...this.result, faults: this.faults };
  }

  async hello() {
    this.publisher = await this.connect();
    const { session, heartbeatMs, maxMessageBytes } = this.publisher.welcome;
    this.result.hello = {
      protocol: this.publisher.protocol,
      session_bytes: session.length,
      heartbeat_ms: heartbeatMs,
      max_message_bytes: maxMessageBytes,
    };
  }

  async book() {
    this.subscriber = await this.connect();
    const [answer] = await this.subscriber.subscribe(this.topic("book"));
    this.result.unknown_topic = { topic_id: answer.topicId, matching: answer.matching };
    const [topic, writes] = [this.topic("book"), this.plan.book];
    // All at once, and then the answers.
    const requests = writes.map((records, at) =>
      this.publisher.begin("publish", { topic, records: records.map(recordOf), sequence: BigInt(at + 1) }),
    );
    const offsets = [];
    for (const request of requests) offsets.push(Number((await this.publisher.answered(request)).body.value.offset));
    const duplicate = await this.publisher.publish(topic, writes.at(-1), { sequence: BigInt(writes.length) });
    const oldDuplicate = await this.publisher.publish(topic, writes[0], { sequence: 1n });
    const book = await this.at("book", offsets.at(-1));
    const { expired, overrun, lost } = book.totals;
    this.result.book = {
      offsets,
      duplicate: published(duplicate),
      old_duplicate: published(oldDuplicate),
      ...summary(book),
      all_events: book.events.length + expired + overrun + lost,
    };
  }

  async replace() {
    const sequence = BigInt(this.plan.book.length + 1);
    const answer = await this.publisher.publish(this.topic("book"), this.plan.replace, { sequence, replace: true });
    const book = await this.at("book", answer.offset);
    const refused = await this.publisher.publish(this.topic("book"), [{ value: "an event" }], { replace: true });
    const { state, checksum } = summary(book);
    this.result.replace = { offset: Number(answer.offset), state, checksum, with_event: refused.code };
  }

  async pattern() {
    for (const name of ["side/a", "side/b"]) await this.publisher.publish(this.topic(name), this.plan.aside);
    const answers = await this.subscriber.subscribe(this.topic("side/*"));
    const { offset } = await this.publisher.publish(this.topic("side/c"), this.plan.aside);
    const sides = [];
    for (const name of ["side/a", "side/b", "side/c"]) sides.push(await this.at(name, offset));
    const later = this.subscriber.later.map(({ topic }) => this.relative(topic));
    this.result.pattern = {
      matching: answers[0].matching,
      first: answers.map(({ topic }) => this.relative(topic)).sort(),
      later: later.filter((topic) => topic.startsWith("side/")),
      each: sides.map(summary),
    };
  }

  async unsubscribe() {
    const { reason } = await this.subscriber.unsubscribe(this.topic("book"));
    const before = this.subscriber.strayPatches;
    await this.publisher.publish(this.topic("book"), this.plan.unseen);
    const { offset } = await this.publisher.publish(this.topic("side/a"), this.plan.aside);
    await this.at("side/a", offset);
    const again = await this.subscriber.unsubscribe(this.topic("book"));
    this.result.unsubscribe = { reason, patches_after: this.subscriber.strayPatches - before, again: again.code };
  }

  async resume() {
    const topic = this.topic("book");
    const followers = new Map();
    let connection = await this.connect({ followers });
    const [snapshot] = await connection.subscribe(topic);
    const book = await this.at("book", snapshot.head, connection);
    const position = { epoch: book.epoch, offset: BigInt(book.cursor) };
    connection.drop();
    let head;
    for (const records of this.plan.missed) head = (await this.publisher.publish(topic, records)).offset;

    connection = await this.connect({ followers });
    const [resumed] = await connection.subscribe(topic, { resume: position });
    await this.at("book", head, connection);
    const continues = book.first.from === Number(position.offset);
    this.result.resume = { resumed: resumed.resumed, continues, ...summary(book) };
    await connection.close();

    connection = await this.connect({ followers });
    const stale = { epoch: book.epoch ^ 1n, offset: BigInt(book.cursor) };
    const [answer] = await connection.subscribe(topic, { resume: stale });
    await this.at("book", head, connection);
    this.result.stale_position = { resumed: answer.resumed, reset: book.first.reset, ...summary(book) };
    this.result.closed_by_client = await connection.close();
  }

  async filters() {
    const found = {};
    const keyPrefix = new TextEncoder().encode("bid/");
    for (const [name, options] of [["min_priority", { minPriority: HIGH }], ["key_prefix", { keyPrefix }]]) {
      const connection = await this.connect();
      const [answer] = await connection.subscribe(this.topic("book"), { eventsOnlyNew: true, ...options });
      found[name] = await this.at("book", answer.head, connection);
      await connection.close();
    }
    const sum = (count) => count(found.min_priority) + count(found.key_prefix);
    this.result.filters = {
      min_priority: state(found.min_priority),
      key_prefix: state(found.key_prefix),
      replayed_events: sum(({ events }) => events.length),
      checksums: sum(({ compared }) => compared),
    };
  }

  async windows() {
    const [calm, urgent] = [this.topic("calm"), this.topic("urgent")];
    const connection = await this.connect({ credit: LITTLE_CREDIT });
    for (const topic of [calm, urgent]) await connection.subscribe(topic);
    const began = await this.publisher.publish(urgent, this.plan.aside);
    await this.at("urgent", began.offset, connection);
    connection.isHolding = true;
    // One record that uses the credit up, then what waits behind it.
    const filler = await this.publisher.publish(calm, [this.plan.filler]);
    await this.at("calm", filler.offset, connection);
    const before = connection.patchBytes;
    const waiting = await this.publisher.publish(calm, this.plan.windows);
    const alarm = await this.publisher.publish(urgent, this.plan.alarm);
    const begun = await this.publisher.ping();
    while ((await this.publisher.ping()) < begun + 60_000) await new Promise((resolve) => setTimeout(resolve, 20));
    const held = connection.patchBytes - before;
    const seen = connection.arrivals.length;
    connection.release();
    const follower = await this.at("calm", waiting.offset, connection);
    const alarmed = await this.at("urgent", alarm.offset, connection);
    const result = {
      while_out_of_credit: held,
      first: this.relative(connection.arrivals[seen]),
      alarms: important(alarmed),
      expired: follower.totals.expired,
      important_events: important(follower),
    };
    // The key's window passes, and the server deletes it: one offset more.
    const deleted = Number((await this.publisher.publish(calm, this.plan.fading)).offset) + 1;
    await this.at("calm", deleted, connection);
    this.result.windows = { ...result, fading: { state: state(follower), deleted: follower.cursor === deleted } };
  }

  async takeover() {
    const old = this.publisher;
    const { session } = old.welcome;
    this.publisher = await this.connect({ session });
    const close = await old.closed();
    // What it may have left unanswered, as far as it knows.
    const writes = this.plan.book;
    const again = await this.publisher.publish(this.topic("book"), writes.at(-1), { sequence: BigInt(writes.length) });
    this.result.takeover = {
      same_session: String(this.publisher.welcome.session) === String(session),
      reason: old.goAway.reason,
      reconnect_after_ms: old.goAway.reconnectAfterMs,
      close,
      resent_is_duplicate: again.duplicate,
    };
  }

  async burst() {
    const topic = this.topic("fast");
    const eager = await this.connect({ credit: CREDIT });
    await eager.subscribe(topic);
    this.stalled = await this.platform.stalled(this.url, topic);
    const requests = [];
    for (const [at, records] of this.plan.burst.entries()) {
      requests.push(this.publisher.begin("publish", { topic, records: records.map(recordOf), sequence: BigInt(at + 1) }));
      // As many unanswered as a busy publisher has.
      if (at >= 64) await this.publisher.answered(requests[at - 64]);
    }
    const head = Number((await this.publisher.answered(requests.at(-1))).body.value.offset);
    const { conflated, ...stalled } = await this.stalled.goOn(head);
    const withCredit = await this.at("fast", head, eager);
    eager.release();
    this.result.burst = {
      offset: head,
      with_credit: {
        ...summary(withCredit),
        all_given_back: eager.givenBack === eager.patchBytes,
        stayed_within: eager.mostUnconfirmed < CREDIT + FRAME_BYTES,
      },
      stalled: { ...stalled, merged: conflated >= this.plan.merged_at_least },
    };
  }

  async errors() {
    const bad = await this.publisher.ask("subscribe", { topic: "not//a/topic" });
    const pattern = await this.publisher.publish(this.topic("*"), this.plan.aside);
    const pong = (await this.publisher.ping()) !== undefined;
    this.result.errors = { bad_topic: bad.body.value.code, pattern_published_to: pattern.code, pong };
    const texting = await this.connect();
    texting.socket.send("a text message");
    const unsupported = await texting.closed();
    this.result.text = { error: texting.lastError.code, close: unsupported };
    const silent = await this.connect({ hello: false });
    silent.begin("ping", {});
    const close = await silent.closed();
    this.result.without_hello = { error: silent.lastError.code, close };
  }

  async goodbye() {
    this.platform.say({ waiting: true });
    const { faults, ...goodbye } = await this.stalled.goodbye();
    this.result.goodbye = goodbye;
    for (const [fault, count] of Object.entries(faults)) this.faults[fault] += count;
  }

  /** Subscribes through a relay that tampers with patches. Each publish is its own patch, so that it knows which. */
  async playFaulty(relay) {
    const topic = this.topic("faulty");
    const publisher = await this.connect();
    const connection = await this.connect({}, relay);
    await connection.subscribe(topic);
    let follower;
    for (const records of this.plan.faulty) {
      const { offset } = await publisher.publish(topic, records);
      follower = await this.at("faulty", offset, connection);
    }
    return { faults: this.faults, snapshots: follower.snapshots, ...summary(follower) };
  }
}

/** Plays what the arguments say, and tells the driver. */
export async function main(platform, url, prefix, plan, relay) {
  const scenario = new Scenario(platform, url, prefix, plan);
  platform.say({ result: relay ? await scenario.playFaulty(relay) : await scenario.play() });
}
