//! Subscribing again: what a client is sent once more, and how much of that.
//!
//! Each `Subscribe` makes the server send the state of what it matches. The first time that is what it is for. A connection that
//! subscribes to what it is subscribed to, or has given a subscription up before, is sent again what it was sent: a few bytes ask for
//! megabytes, as often as it likes. So from then on what brings its new subscribers to the head is counted, and while more than
//! [`Limits::resent_bytes`](crate::limits::Limits::resent_bytes) was sent in [`RESENT_PERIOD`], `Subscribe` is refused; what it is
//! subscribed to goes on. Trusted addresses have no such limit, as they have none on messages. A position that can be resumed costs only what has happened since.

use std::ops::Range;
use std::time::Duration;

use crate::ids::Offset;
use crate::limits::{RESENT_PERIOD, UNSAID_ANSWERS};
use crate::protocol::wire::Code;
use crate::shard::core::Core;
use crate::shard::subscribe::Attached;

/// What a `Subscribed` and an empty patch take beside the topic's name: 60 to 100 bytes.
const ANSWER_BYTES: usize = 80;

impl Core {
    /// Whether a `Subscribe` may be served; answers if not. `at` is the subscription that it would start anew.
    pub(super) fn admits_subscribe(&mut self, index: u32, request: u64, at: Option<u32>) -> bool {
        let (now, limit) = (self.now, self.settings.limits.resent_bytes);
        let connection = self.connections[index as usize].as_deref().expect("its caller holds its index");
        let (mut unsaid, mut on_the_way) = (0, 0);
        for subscriber in &connection.subscribers {
            let Some(extra) = &subscriber.extra else { continue };
            unsaid += extra.announcements.len();
            if extra.resent_to > Offset::ZERO && Some(subscriber.subscription) != at {
                on_the_way += self.topics.topic(subscriber.topic).log.bytes_after(subscriber.cursor.offset);
            }
        }
        if unsaid > UNSAID_ANSWERS {
            self.counters.limit_hits.resent_bytes += 1;
            let message = format!("more than {UNSAID_ANSWERS} answers to earlier Subscribes have not been read");
            self.answer_error(index, request, Code::RateLimited, &message, Duration::from_secs(1));
            return false;
        }
        let connection = self.at(index);
        if connection.is_trusted {
            return true;
        }
        if at.is_some() {
            connection.subscribes_again();
        }
        let Some(Err(retry)) = connection.resent().map(|resent| resent.look(now, on_the_way, limit)) else {
            return true;
        };
        self.counters.limit_hits.resent_bytes += 1;
        let seconds = RESENT_PERIOD.as_secs();
        let message = format!("subscribed again too often: at most {limit} bytes in {seconds} s are sent again");
        self.answer_error(index, request, Code::RateLimited, &message, retry);
        false
    }

    /// Counts the answer to a client that subscribes again, and from now on what its subscriber is sent on its way to the head, if
    /// it begins.
    pub(super) fn count_resent(&mut self, index: u32, attached: Attached) {
        let (Attached::Anew(position) | Attached::Served(position)) = attached else { return };
        let topic = self.at(index).subscribers[position as usize].topic;
        let topic = self.topics.topic(topic);
        let (answer, head) = (topic.name.as_str().len() + ANSWER_BYTES, topic.log.head());
        let (now, limit) = (self.now, self.settings.limits.resent_bytes);
        let connection = self.at(index);
        let Some(resent) = connection.resent() else { return };
        resent.spend(now, answer, limit);
        if attached == Attached::Anew(position) {
            let extra = connection.subscribers[position as usize].extra();
            // A replica that has no head yet has one when the subscriber begins.
            extra.resent_to = if extra.waiting.is_some() { Offset(u64::MAX) } else { head };
        }
    }

    /// Counts a patch of so many bytes that was queued for a subscriber.
    pub(super) fn spend_resent(&mut self, index: u32, position: u32, moved: Range<Offset>, more: bool, bytes: usize) {
        let (now, limit) = (self.now, self.settings.limits.resent_bytes);
        let connection = self.at(index);
        let Some(extra) = connection.subscribers[position as usize].extra.as_deref_mut() else { return };
        if extra.resent_to == Offset::ZERO {
            return;
        }
        let counts = moved.start < extra.resent_to;
        if moved.end >= extra.resent_to || !more {
            extra.resent_to = Offset::ZERO;
        }
        if let Some(resent) = connection.resent().filter(|_| counts) {
            resent.spend(now, bytes, limit);
        }
    }

    /// A patch was taken back: its bytes are counted when they are sent.
    pub(super) fn restore_resent(&mut self, index: u32, position: u32, from: Offset, bytes: usize) {
        let limit = self.settings.limits.resent_bytes;
        let connection = self.at(index);
        let extra = connection.subscribers[position as usize].extra.as_deref();
        if extra.is_some_and(|extra| from < extra.resent_to)
            && let Some(resent) = connection.resent()
        {
            resent.restore(bytes, limit);
        }
    }
}
