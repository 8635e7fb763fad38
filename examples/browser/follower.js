// The state of one topic, by the rules for patches of docs/protocol.md. It outlives its connection.
// `tests/interop` uses it too.

const CRC_TABLE = new Uint32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc32(parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** What one key adds to the checksum. */
function term(key, value) {
  return crc32([[key.length & 0xff, (key.length >>> 8) & 0xff, 0, 0], key, value]);
}

/** Bytes as a string with a character for each, which a Map can look up and which sorts as the bytes do. */
export const byteString = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

export class Follower {
  constructor(name) {
    this.name = name;
    this.epoch = 0n;
    this.cursor = 0;
    this.keys = new Map();
    this.checksum = 0;
    this.isCurrent = false;
    // After a fault, until the answer to subscribing anew.
    this.isBroken = false;
    // Whoever uses them takes them out.
    this.events = [];
    this.handedOver = new Map();
    // The first patch since the last Subscribed.
    this.first = undefined;
    this.snapshots = 0;
    this.compared = 0;
    this.totals = { conflated: 0, expired: 0, overrun: 0, lost: 0, filtered: 0 };
  }

  subscribed(subscribed) {
    this.epoch = subscribed.epoch;
    this.isBroken = false;
    this.isCurrent = false;
    this.first = undefined;
  }

  /** Returns the fault, if there is one. */
  apply(patch) {
    if (patch.reset) {
      this.keys.clear();
      this.checksum = 0;
      this.cursor = 0;
      this.snapshots++;
    }
    const to = Number(patch.to);
    if (Number(patch.from) !== this.cursor) return "chain";
    const counts = ["expired", "overrun", "lost", "filtered"];
    const sent = counts.reduce((sum, count) => sum + Number(patch[count]), patch.records.length);
    const conflated = to - this.cursor - sent;
    for (const record of patch.records) this.#apply(record, Number(record.offset) || to);
    for (const record of patch.ahead) this.#apply(record, Number(record.offset));
    this.cursor = to;
    this.first ??= { from: Number(patch.from), reset: patch.reset };
    this.totals.conflated += conflated;
    for (const count of counts) this.totals[count] += Number(patch[count]);
    if (conflated < 0) return "counts";
    if (patch.checksum !== undefined) {
      this.compared++;
      if (patch.checksum !== this.checksum) return "checksum";
    }
    this.isCurrent = !patch.more;
    return undefined;
  }

  #apply(record, offset) {
    if (record.key.length === 0) {
      if (offset > (this.handedOver.get(this.epoch) ?? 0)) {
        this.handedOver.set(this.epoch, offset);
        this.events.push(record);
      }
      return;
    }
    const key = byteString(record.key);
    const old = this.keys.get(key);
    if (old) this.checksum -= term(old.key, old.value);
    if (record.delete) {
      this.keys.delete(key);
    } else {
      this.keys.set(key, record);
      this.checksum += term(record.key, record.value);
    }
    this.checksum >>>= 0;
  }

  isAt(offset) {
    return this.isCurrent && !this.isBroken && this.cursor >= offset;
  }
}
