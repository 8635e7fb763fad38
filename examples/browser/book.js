// A live order book: connects, subscribes to one topic, draws it, and gives back credit for what was drawn.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { ClientFrameSchema, ServerFrameSchema } from "./gen/tidegate/v1/tidegate_pb.js";
import { Follower } from "./follower.js";

// About what the page reads in half a second.
const CREDIT_BYTES = 32_768n;
const LEVELS = 12;

const parameters = new URLSearchParams(location.search);
const url = parameters.get("url") ?? "ws://127.0.0.1:8433";
const topic = parameters.get("topic") ?? "depth/BTCUSDT";
const element = (id) => document.getElementById(id);

const book = new Follower(topic);
let socket;
// The topic's number on this connection; patches of others are none of ours.
let topicId;
let undrawnBytes = 0;
let failures = 0;
let faults = 0;

function connect() {
  let reconnectAfterMs;
  let status = "the connection was lost";
  socket = new WebSocket(`${url}/v1/ws`, "tidegate.v1");
  socket.binaryType = "arraybuffer";
  undrawnBytes = 0;
  topicId = undefined;

  socket.onopen = () => {
    send("hello", { agent: "browser-example/1", creditBytes: CREDIT_BYTES });
    // From where we stopped, if we were here before.
    const resume = book.epoch ? { epoch: book.epoch, offset: BigInt(book.cursor) } : undefined;
    subscribe(resume);
  };

  socket.onmessage = ({ data }) => {
    const { case: name, value } = fromBinary(ServerFrameSchema, new Uint8Array(data)).body;
    if (name === "welcome") {
      failures = 0;
    } else if (name === "subscribed") {
      topicId = value.topicId || undefined;
      if (topicId) book.subscribed(value);
      else show(`${topic} has no publisher yet`);
    } else if (name === "patch") {
      undrawnBytes += data.byteLength;
      if (value.topicId === topicId && !book.isBroken && book.apply(value)) {
        // Should never happen: count it, and begin anew.
        faults++;
        book.isBroken = true;
        subscribe();
      }
    } else if (name === "error") {
      status = value.message;
      show(status);
    } else if (name === "goAway") {
      reconnectAfterMs = value.reconnectAfterMs;
      status = "the server says goodbye";
    }
  };

  socket.onclose = ({ code }) => {
    const comesBack = reconnectAfterMs ?? (isWorthIt(code) ? Math.random() * Math.min(30_000, 1_000 * 2 ** failures++) : 0);
    show(comesBack ? `${status} (${code}); connecting again …` : `${status} (${code})`);
    if (comesBack) setTimeout(connect, comesBack);
  };
}

/** By the table of close codes in docs/protocol.md. */
function isWorthIt(code) {
  return [1001, 1006, 1011, 1012, 1013].includes(code) || (code >= 4000 && code < 4500);
}

function send(name, value) {
  socket.send(toBinary(ClientFrameSchema, create(ClientFrameSchema, { request: 1n, body: { case: name, value } })));
}

function subscribe(resume) {
  send("subscribe", { topic, resume });
}

/** Draws the book, and only then says that its patches were consumed. A tab that nobody sees draws nothing, and is sent nothing. */
function draw() {
  if (undrawnBytes > 0 && socket.readyState === WebSocket.OPEN) {
    if (book.isCurrent && !book.isBroken) drawBook();
    book.events.length = 0; // a book has none to show
    send("credit", { bytes: BigInt(undrawnBytes) });
    undrawnBytes = 0;
  }
  requestAnimationFrame(draw);
}

function drawBook() {
  const sides = { a: [], b: [] };
  const text = new TextDecoder();
  // Keys are a side and a price, as in `b61834.2`; there may be others.
  for (const [key, { value }] of book.keys) {
    const price = Number(key.slice(1));
    if (key[0] in sides && !Number.isNaN(price)) sides[key[0]].push({ name: key.slice(1), price, size: Number(text.decode(value)) });
  }
  const asks = sides.a.sort((one, other) => one.price - other.price).slice(0, LEVELS);
  const bids = sides.b.sort((one, other) => other.price - one.price).slice(0, LEVELS);
  const largest = Math.max(...[...asks, ...bids].map(({ size }) => size));
  const row = (className) => ({ name, size }) => {
    const cells = `<td>${name}</td><td style="--size: ${(100 * size) / largest}%">${size}</td>`;
    return `<tr class="${className}">${cells}</tr>`;
  };
  const digits = (asks[0]?.name.split(".")[1] ?? "").length;
  const spread = asks.length && bids.length ? (asks[0].price - bids[0].price).toFixed(Math.max(digits, 2)) : "–";
  element("book").innerHTML = [
    ...asks.reverse().map(row("ask")),
    `<tr class="spread"><td colspan="2">spread ${spread}</td></tr>`,
    ...bids.map(row("bid")),
  ].join("");
  const { conflated } = book.totals;
  show(`offset ${book.cursor}, ${book.keys.size} keys, ${conflated} records merged, ${book.compared} checksums right, ${faults} faults`);
}

function show(status) {
  element("status").textContent = status;
}

element("topic").textContent = topic;
connect();
requestAnimationFrame(draw);
