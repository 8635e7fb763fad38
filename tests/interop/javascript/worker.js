// The stalled reader of a page: blocked until the gate opens, which holds the offset to read up to. It asks for credit, as pages
// should: Chromium takes in 220 to 250 KB, and answers the pings among them, before it stops reading for a page that doesn't.

import { StalledReader } from "./stalled.js";

onmessage = async ({ data: { url, topic, gate } }) => {
  const reader = new StalledReader(WebSocket, url, topic, 16_384);
  await reader.subscribe();
  postMessage({ isStalled: true });
  Atomics.wait(gate, 0, 0);
  postMessage({ summary: await reader.upTo(Atomics.load(gate, 0)) });
  postMessage({ goodbye: await reader.goodbye() });
};
