// For browsers: the page plays the scenario, a worker is its stalled reader. `report` is given by whoever opened the page.

import { main } from "./scenario.js";

/** A worker that is blocked reads nothing, as a page does that is busy or in a debugger. */
async function stalled(url, topic) {
  const worker = new Worker("worker.js", { type: "module" });
  const told = (name) =>
    new Promise((resolve, reject) => {
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.addEventListener("message", ({ data }) => data[name] && resolve(data[name]));
    });
  const gate = new Int32Array(new SharedArrayBuffer(4));
  const [isStalled, goodbye] = [told("isStalled"), told("goodbye")];
  worker.postMessage({ url, topic, gate });
  await isStalled;
  return {
    goOn(head) {
      const summary = told("summary");
      Atomics.store(gate, 0, head);
      Atomics.notify(gate, 0);
      return summary;
    },
    goodbye: () => goodbye,
  };
}

const { url, prefix, relay } = Object.fromEntries(new URLSearchParams(location.search));
const say = (line) => window.report(JSON.stringify(line));
try {
  const plan = await (await fetch("plan.json")).json();
  await main({ WebSocket, agent: "interop-browser", say, stalled }, url, prefix, plan, relay);
} catch (error) {
  say({ failed: String(error?.stack ?? error) });
}
