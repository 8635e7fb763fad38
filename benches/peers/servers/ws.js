// npm ws. Usage: node ws.js PORT default|throughput|freshness
//
// /subscribe: a subscriber. /publish: a publisher; its message goes to all subscribers and is answered "ok". Both are told "ready"
// when they are.
//
// default     what its documentation shows: send() to each client
// throughput  the frame is made once and written to each client's socket, which is corked for the tick: one writev for all
//             messages that came together
// freshness   as throughput, but a client with more than 16 KiB waiting is skipped
const { WebSocketServer, Sender } = require("ws");
const [port, profile] = process.argv.slice(2);
if (!["default", "throughput", "freshness"].includes(profile)) throw new Error(`no profile "${profile}"`);
const limit = profile === "freshness" ? 16 * 1024 : Infinity;

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: false });
const subscribers = new Set();
let corked = [];

function uncork() {
  const sockets = corked;
  corked = [];
  for (const socket of sockets) socket.uncork();
}

function broadcast(message) {
  if (profile === "default") {
    for (const subscriber of subscribers) subscriber.send(message, { binary: true });
    return;
  }
  const parts = Sender.frame(message, { fin: true, opcode: 2, mask: false, readOnly: true, rsv1: false });
  const frame = Buffer.concat(parts);
  const isFirst = corked.length === 0;
  for (const { _socket: socket } of subscribers) {
    if (socket.writableLength > limit) continue;
    if (isFirst) {
      socket.cork();
      corked.push(socket);
    }
    socket.write(frame);
  }
  if (isFirst) setImmediate(uncork);
}

server.on("connection", (client, request) => {
  if (request.url === "/publish") {
    client.on("message", (message) => {
      broadcast(message);
      client.send("ok");
    });
  } else {
    subscribers.add(client);
    client.on("close", () => subscribers.delete(client));
  }
  client.on("error", (error) => console.error(error.message));
  client.send("ready");
});
server.on("listening", () => console.log(`listening on 127.0.0.1:${port}`));
