// socket.io over its WebSocket transport. Usage: node socketio.js PORT default|throughput|freshness
//
// Who connects is in the room "bench". A "publish" event goes to the room as an "event", and is acknowledged by socket.io's own means.
// freshness: volatile events, which are dropped for a client whose transport is not writable.
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const [port, profile] = process.argv.slice(2);

const tuned = {
  default: {},
  throughput: { transports: ["websocket"], serveClient: false, httpCompression: false, perMessageDeflate: false },
  freshness: { transports: ["websocket"], serveClient: false, httpCompression: false, perMessageDeflate: false },
}[profile];
if (!tuned) throw new Error(`no profile "${profile}"`);

const http = createServer();
const io = new Server(http, tuned);
io.on("connection", (socket) => {
  socket.on("publish", (message, acknowledge) => {
    const room = io.to("bench");
    (profile === "freshness" ? room.volatile : room).emit("event", message);
    acknowledge();
  });
  socket.on("subscribe", (acknowledge) => {
    socket.join("bench");
    acknowledge();
  });
});
http.listen(Number(port), "127.0.0.1", () => console.log(`listening on 127.0.0.1:${port}`));
