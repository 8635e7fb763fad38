"""A relay that tampers with one patch on its way to a client.

It forwards bytes both ways, but looks into the server's WebSocket frames (which are never masked and never fragmented), and
tampers with the fourth patch that has records, once: in `value` it flips a bit of a record's value, in `gap` the
patch pretends to start one offset later, and `twice` sends it again.
"""

import socket
import threading

from tidegate.v1 import tidegate_pb2 as wire

TAMPERED_PATCH = 4
BINARY = 2


class Relay:
    """Serves until the process ends."""

    def __init__(self, port, kind):
        self._to, self._kind = ("127.0.0.1", port), kind
        self.tampered = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._to)
            for pump, one, other in ((self._pump, client, server), (self._tamper, server, client)):
                threading.Thread(target=self._until_gone, args=(pump, one, other), daemon=True).start()

    @staticmethod
    def _until_gone(pump, one, other):
        try:
            pump(one.makefile("rb"), other)
        except OSError:
            pass
        # An end of one side is an end of both.
        for side in (one, other):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def _pump(source, to):
        while data := source.read1(65_536):
            to.sendall(data)

    def _tamper(self, source, to):
        while (line := source.readline()) not in (b"\r\n", b""):
            to.sendall(line)
        to.sendall(line)
        patches = 0
        while frame := read_frame(source):
            opcode, payload = frame
            message = wire.ServerFrame.FromString(payload) if opcode == BINARY else wire.ServerFrame()
            patches += bool(message.patch.records)
            if patches == TAMPERED_PATCH and message.patch.records and not self.tampered:
                self.tampered += 1
                for payload in self._instead(message, payload):
                    to.sendall(write_frame(opcode, payload))
            else:
                to.sendall(write_frame(opcode, payload))

    def _instead(self, message, payload):
        if self._kind == "twice":
            return [payload, payload]
        patch = message.patch
        if self._kind == "gap":
            setattr(patch, "from", getattr(patch, "from") + 1)
        else:
            record = next(record for record in patch.records if record.key)
            record.value = record.value[:-1] + bytes([record.value[-1] ^ 1])
        return [message.SerializeToString()]


def read_frame(source):
    """Opcode and payload, or None at the end."""
    head = source.read(2)
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(source.read(2 if size == 126 else 8), "big")
    return head[0] & 0x0F, source.read(size)


def write_frame(opcode, payload):
    """A whole message in one unmasked frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65_536:
        length = bytes([126]) + size.to_bytes(2, "big")
    else:
        length = bytes([127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + payload
