// A reader that subscribes, reads nothing for a while, and then reads again.

import { Connection } from "./connection.js";
import { summary } from "./scenario.js";

export class StalledReader {
  constructor(WebSocket, url, topic, credit) {
    Object.assign(this, { WebSocket, url, topic, credit });
  }

  async subscribe() {
    this.faults = { chain: 0, checksum: 0, counts: 0 };
    this.connection = await Connection.open(this.WebSocket, this.url, this.faults, { credit: this.credit });
    await this.connection.subscribe(this.topic);
  }

  /** Reads up to the offset, and says what it then holds. */
  async upTo(head) {
    await this.connection.until(() => this.connection.followers.get(this.topic)?.isAt(head));
    const follower = this.connection.followers.get(this.topic);
    return { ...summary(follower), conflated: follower.totals.conflated };
  }

  async goodbye() {
    const close = await this.connection.closed();
    const { reason, reconnectAfterMs } = this.connection.goAway;
    return { reason, comes_back: reconnectAfterMs > 0, close, faults: this.faults };
  }
}
