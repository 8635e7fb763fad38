// uWebSockets and its publish/subscribe, through its binding for Node. Usage: node uws.js PORT default|throughput|freshness
//
// /subscribe: a subscriber. /publish: a publisher; its message goes to all subscribers and is answered "ok". Both are told "ready"
// when they are.
const uws = require("@trufflesuite/uws-js-unofficial");
const [port, profile] = process.argv.slice(2);

// The package falls back to a server in JavaScript where it has no binary; that is not what is to be measured.
if (!Object.keys(require.cache).some((file) => file.endsWith(".node"))) {
  console.error("uWebSockets has no binary for this Node: it would measure something else");
  process.exit(1);
}

// Beyond maxBackpressure (64 KiB by default) a message is dropped for the connection that has reached it.
const tuned = {
  default: {},
  throughput: { maxBackpressure: 1024 * 1024 * 1024, idleTimeout: 960, sendPingsAutomatically: false },
  freshness: { maxBackpressure: 16 * 1024, idleTimeout: 960, sendPingsAutomatically: false },
}[profile];
if (!tuned) throw new Error(`no profile "${profile}"`);

const app = uws.App();
app.ws("/subscribe", {
  ...tuned,
  open(socket) {
    socket.subscribe("bench");
    socket.send("ready");
  },
});
app.ws("/publish", {
  ...tuned,
  open(socket) {
    socket.send("ready");
  },
  message(socket, message) {
    app.publish("bench", message, true);
    socket.send("ok");
  },
});
app.listen("127.0.0.1", Number(port), (listening) => {
  if (!listening) throw new Error(`port ${port} is taken`);
  console.log(`listening on 127.0.0.1:${port}`);
});
