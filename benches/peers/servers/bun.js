// Bun's own WebSocket server and its publish/subscribe. Usage: bun bun.js PORT default|throughput|freshness
//
// /subscribe: a subscriber. /publish: a publisher; its message goes to all subscribers and is answered "ok". Both are told "ready"
// when they are.
const [port, profile] = process.argv.slice(2);

// 0 is "no limit"; beyond a limit a message is dropped for the connection that has reached it.
const tuned = {
  default: {},
  throughput: { backpressureLimit: 0, idleTimeout: 960, sendPings: false },
  freshness: { backpressureLimit: 16 * 1024, closeOnBackpressureLimit: false, idleTimeout: 960, sendPings: false },
}[profile];
if (!tuned) throw new Error(`no profile "${profile}"`);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  fetch(request, server) {
    const isPublisher = new URL(request.url).pathname === "/publish";
    return server.upgrade(request, { data: { isPublisher } }) ? undefined : new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    ...tuned,
    perMessageDeflate: false,
    open(socket) {
      if (!socket.data.isPublisher) socket.subscribe("bench");
      socket.send("ready");
    },
    message(socket, message) {
      if (!socket.data.isPublisher) return;
      server.publish("bench", message);
      socket.send("ok");
    },
  },
});
console.log(`listening on 127.0.0.1:${server.port}`);
