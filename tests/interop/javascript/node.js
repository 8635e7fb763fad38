// For Node, on `ws`: `node.js URL PREFIX PLAN [--faulty RELAY]` prints lines of JSON.

import { readFileSync } from "node:fs";
import WebSocket from "ws";
import { main } from "./scenario.js";
import { StalledReader } from "./stalled.js";

class Plain extends WebSocket {
  constructor(url, protocol) {
    super(url, protocol, { perMessageDeflate: false });
  }
}

async function stalled(url, topic) {
  const reader = new StalledReader(Plain, url, topic, 0);
  await reader.subscribe();
  reader.connection.socket.pause();
  return {
    goOn(head) {
      reader.connection.socket.resume();
      return reader.upTo(head);
    },
    goodbye: () => reader.goodbye(),
  };
}

const [url, prefix, plan, , relay] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
await main({ WebSocket: Plain, agent: "interop-node", say, stalled }, url, prefix, JSON.parse(readFileSync(plan, "utf8")), relay);
process.exit(0);
