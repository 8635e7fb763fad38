// A client for JavaScript, written from docs/protocol.md: one WebSocket, from Hello to its close code.
// It is the same for browsers and for `ws`, which has their interface.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { ClientFrameSchema, RecordSchema, ServerFrameSchema } from "./gen/tidegate/v1/tidegate_pb.js";
import { Follower } from "./follower.js";

// Generous: nothing is measured here.
const PATIENCE_MS = 60_000;

const bytes = (text = "") => new TextEncoder().encode(text);

/** A record of the plan, for the wire. */
export function recordOf({ key, value, delete: isDelete = false, priority = 0, window_ms: windowMs = 0 }) {
  return create(RecordSchema, { key: bytes(key), value: bytes(value), delete: isDelete, priority, windowMs });
}

/** `*` stands for one segment, a last `**` for one or more. */
export function matches(pattern, name) {
  let [wanted, segments] = [pattern.split("/"), name.split("/")];
  if (wanted.at(-1) === "**" && segments.length >= wanted.length) {
    wanted = wanted.slice(0, -1);
    segments = segments.slice(0, wanted.length);
  }
  return wanted.length === segments.length && wanted.every((one, at) => one === "*" || one === segments[at]);
}

export class Connection {
  static async open(WebSocket, url, faults, { followers = new Map(), session, credit = 0, hello = true, agent = "" } = {}) {
    const connection = new Connection();
    Object.assign(connection, { faults, followers, credit });
    await connection.#connect(new WebSocket(`${url}/v1/ws`, "tidegate.v1"));
    if (hello) {
      const answer = await connection.ask("hello", { agent, session, creditBytes: BigInt(credit) });
      connection.welcome = answer.body.value;
    }
    return connection;
  }

  topics = new Map();
  subscriptions = [];
  answers = new Map();
  later = [];
  // Names of topics, patch by patch.
  arrivals = [];
  strayPatches = 0;
  patchBytes = 0;
  givenBack = 0;
  mostUnconfirmed = 0;
  isHolding = false;
  #requests = 0;
  #waiting = new Set();

  #connect(socket) {
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      this.#take(fromBinary(ServerFrameSchema, new Uint8Array(data)), data.byteLength);
      this.#tell();
    };
    socket.onclose = ({ code }) => {
      this.closeCode = code;
      this.#tell();
    };
    socket.onerror = () => {};
    return new Promise((resolve, reject) => {
      socket.onopen = () => {
        this.protocol = socket.protocol;
        resolve();
      };
      socket.addEventListener("close", () => reject(new Error(`closed with ${this.closeCode}`)));
    });
  }

  #send(request, name, value) {
    const frame = create(ClientFrameSchema, { request: BigInt(request), body: { case: name, value } });
    this.socket.send(toBinary(ClientFrameSchema, frame));
  }

  /** Sends a request, and returns its number. */
  begin(name, value) {
    this.answers.set(++this.#requests, []);
    this.#send(this.#requests, name, value);
    return this.#requests;
  }

  async answered(request, count = 1) {
    const answers = this.answers.get(request);
    await this.until(() => answers.length >= count);
    return answers[count - 1];
  }

  ask(name, value) {
    return this.answered(this.begin(name, value));
  }

  async publish(topic, records, options = {}) {
    return (await this.ask("publish", { topic, records: records.map(recordOf), ...options })).body.value;
  }

  /** The answers: one for each topic that matches now, or one error. */
  async subscribe(topic, options = {}) {
    const request = this.#beginSubscribing(topic, options);
    const { body } = await this.answered(request);
    if (body.case === "subscribed") await this.answered(request, Math.max(1, body.value.matching));
    return this.answers.get(request).map((frame) => frame.body.value);
  }

  #beginSubscribing(topic, options) {
    if (!this.subscriptions.includes(topic)) this.subscriptions.push(topic);
    return this.begin("subscribe", { topic, ...options });
  }

  async unsubscribe(topic) {
    return (await this.ask("unsubscribe", { topic })).body.value;
  }

  /** Which subscription a topic is delivered under: the first that matches. */
  #subscription(name) {
    return this.subscriptions.find((pattern) => matches(pattern, name));
  }

  /** The server's clock in microseconds, if the pong is the ping's. */
  async ping() {
    const mine = BigInt(Date.now()) * 1000n;
    const pong = (await this.ask("ping", { clientTimeUs: mine })).body.value;
    return pong.clientTimeUs === mine ? Number(pong.serverTimeUs) : undefined;
  }

  /** Waits until something that was received made the condition true. */
  async until(condition) {
    // Not asked again: by now more may have come.
    if (!(await this.#wait(condition))) throw new Error(`closed with ${this.closeCode} while waiting; last error: ${this.lastError?.message}`);
  }

  async closed() {
    await this.#wait(() => false);
    return this.closeCode;
  }

  #wait(condition) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`waited in vain: ${condition}`)), PATIENCE_MS);
      const look = () => {
        const holds = condition();
        if (!holds && this.closeCode === undefined) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve(holds);
      };
      this.#waiting.add(look);
      look();
    });
  }

  #tell() {
    for (const look of [...this.#waiting]) look();
  }

  close() {
    this.socket.close(1000);
    return this.closed();
  }

  /** Is gone without a close frame, where the interface allows it; a page can only close. */
  drop() {
    if (this.socket.terminate) this.socket.terminate();
    else this.socket.close();
  }

  /** Gives back the credit that was held. */
  release() {
    this.isHolding = false;
    this.#giveBack(0);
  }

  #take(frame, size) {
    const { case: name, value } = frame.body;
    if (name === "patch") {
      this.patchBytes += size;
      this.mostUnconfirmed = Math.max(this.mostUnconfirmed, this.patchBytes - this.givenBack);
      this.#patch(value);
      if (this.credit > 0) this.#giveBack(Math.min(1024, this.credit / 4));
      return;
    }
    if (name === "subscribed" && value.topicId !== 0) {
      if (!this.followers.has(value.topic)) this.followers.set(value.topic, new Follower(value.topic));
      const follower = this.followers.get(value.topic);
      this.topics.set(value.topicId, follower);
      follower.subscribed(value);
    } else if (name === "unsubscribed") {
      for (const [id, follower] of this.topics) {
        if (this.#subscription(follower.name) === value.topic) this.topics.delete(id);
      }
      this.subscriptions = this.subscriptions.filter((subscription) => subscription !== value.topic);
    } else if (name === "goAway") {
      this.goAway = value;
    } else if (name === "error") {
      this.lastError = value;
    }
    if (frame.request !== 0n) this.answers.get(Number(frame.request)).push(frame);
    else if (name === "subscribed") this.later.push(value);
  }

  #patch(patch) {
    const follower = this.topics.get(patch.topicId);
    if (!follower) {
      this.strayPatches++;
      return;
    }
    if (follower.isBroken) return;
    this.arrivals.push(follower.name);
    const fault = follower.apply(patch);
    if (fault) {
      this.faults[fault]++;
      follower.isBroken = true;
      this.#beginSubscribing(this.#subscription(follower.name), {});
    }
  }

  #giveBack(atLeast) {
    const owed = this.patchBytes - this.givenBack;
    if (owed > 0 && owed >= atLeast && !this.isHolding) {
      this.givenBack += owed;
      this.#send(0, "credit", { bytes: BigInt(owed) });
    }
  }
}
