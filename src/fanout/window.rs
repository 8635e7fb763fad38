//! The in-flight window: how many patch bytes may be sent to a connection and not yet consumed there.
//!
//! What lies in a peer's receive buffer can no longer be merged or dropped, so only as much goes there as the peer
//! consumes within the freshness target. Consumption is confirmed by `Credit`, or, for clients that do not send it, by the
//! pong that answers a ping placed behind the bytes: the *marker*. Positions count patch bytes since the connection began.

use std::time::Duration;

use crate::clock::Moment;
use crate::limits::{DELAY_MEMORY, WINDOW_INITIAL_BYTES, WINDOW_MAX_BYTES, WINDOW_MIN_BYTES};

/// A position in the byte stream and when it was handed to the kernel; what confirms the position tells the delay.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    at: Moment,
}

/// One connection's in-flight window.
///
/// Invariant: `confirmed <= sent`, and `confirmed < mark.position <= sent` while a mark is out.
#[derive(Clone, Debug)]
pub struct Window {
    size: u64,
    sent: u64,
    confirmed: u64,
    mark: Option<Mark>,
    /// When the oldest unconfirmed byte was sent, or the last confirmation came, whichever is later.
    draining_since: Moment,
    /// What was confirmed then.
    draining_from: u64,
    delay: SmallestDelay,
    /// Beyond this many unconfirmed bytes nothing is sent: `Hello.credit_bytes`; 0: the client sends no credit.
    credit: u64,
    is_late: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: WINDOW_INITIAL_BYTES,
            sent: 0,
            confirmed: 0,
            mark: None,
            draining_since: Moment::default(),
            draining_from: 0,
            delay: SmallestDelay::default(),
            credit: 0,
            is_late: false,
        }
    }
}

impl Window {
    /// From now on the client confirms by `Credit`, and takes at most `bytes` ahead of it.
    pub fn use_credit(&mut self, bytes: u64) {
        self.credit = bytes;
    }

    /// Whether the client confirms by `Credit`, so that no pings are needed as markers.
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.credit > 0
    }

    /// Bytes that may still be sent. The last frame may overshoot only as [`Window::may_overshoot`] says.
    #[must_use]
    pub fn room(&self) -> u64 {
        let limit = if self.credit > 0 { self.size.min(self.credit) } else { self.size };
        limit.saturating_sub(self.in_flight())
    }

    /// Bytes sent and not yet confirmed.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sent - self.confirmed
    }

    /// While the queueing delay is under the target, a connection with any room may overshoot by one shared frame.
    #[must_use]
    pub fn may_overshoot(&self) -> bool {
        !self.is_late
    }

    /// `bytes` of patches were handed to the kernel.
    pub fn sent(&mut self, bytes: u64, now: Moment) {
        if self.in_flight() == 0 {
            (self.draining_since, self.draining_from) = (now, self.confirmed);
        }
        self.sent += bytes;
    }

    /// Whether a marker belongs behind what was sent so far: none is out, and a quarter of the window is unconfirmed
    /// once `upcoming` more bytes are sent.
    #[must_use]
    pub fn wants_mark(&self, upcoming: u64) -> bool {
        self.mark.is_none() && self.in_flight() + upcoming >= (self.size / 4).max(1)
    }

    /// A mark was placed behind all bytes sent so far.
    pub fn place_mark(&mut self, now: Moment) {
        if self.in_flight() > 0 {
            self.mark = Some(Mark { position: self.sent, at: now });
        }
    }

    /// The pong of the marker arrived: everything before it was consumed.
    pub fn confirm_mark(&mut self, now: Moment, target: Duration) {
        if let Some(mark) = self.mark {
            self.confirm(mark.position, now, target);
        }
    }

    /// The client says that it consumed `bytes` more. More than was sent confirms all that was sent.
    pub fn credit(&mut self, bytes: u64, now: Moment, target: Duration) {
        let position = self.confirmed.saturating_add(bytes).min(self.sent);
        self.confirm(position, now, target);
        if self.credit > 0 && self.wants_mark(0) {
            self.place_mark(now);
        }
    }

    /// The peer's TCP has yet to acknowledge `bytes`: what lies before them counts as consumed. For peers that answer no
    /// marker.
    pub fn confirm_transport(&mut self, unacknowledged: u64, now: Moment, target: Duration) {
        let position = self.sent.saturating_sub(unacknowledged).max(self.confirmed);
        self.confirm(position, now, target);
        if self.wants_mark(0) {
            self.place_mark(now);
        }
    }

    /// The present size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Since when a mark has been waiting for its answer.
    #[must_use]
    pub fn marked_at(&self) -> Option<Moment> {
        self.mark.map(|mark| mark.at)
    }

    fn confirm(&mut self, position: u64, now: Moment, target: Duration) {
        self.confirmed = position;
        if let Some(mark) = self.mark.filter(|mark| mark.position <= position) {
            self.mark = None;
            let delay = now.since(mark.at);
            let smallest = self.delay.observe(delay, now);
            self.is_late = delay.saturating_sub(smallest) > target;
            if self.is_late {
                let elapsed = now.since(self.draining_since).max(Duration::from_millis(1));
                let bytes = position - self.draining_from;
                let aim = bytes as f64 / elapsed.as_secs_f64() * (smallest + target).as_secs_f64();
                self.size = (aim as u64).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
            } else {
                self.size = (self.size + self.size / 4).min(WINDOW_MAX_BYTES);
            }
            (self.draining_since, self.draining_from) = (now, position);
        }
    }
}

/// The smallest delay of the last [`DELAY_MEMORY`]: the minimum of this half of it and of the half before.
#[derive(Clone, Copy, Debug)]
struct SmallestDelay {
    current: Duration,
    previous: Duration,
    since: Moment,
}

impl Default for SmallestDelay {
    fn default() -> Self {
        Self { current: Duration::MAX, previous: Duration::MAX, since: Moment::default() }
    }
}

impl SmallestDelay {
    fn observe(&mut self, delay: Duration, now: Moment) -> Duration {
        let age = now.since(self.since);
        if age >= DELAY_MEMORY {
            (self.previous, self.current, self.since) = (Duration::MAX, Duration::MAX, now);
        } else if age >= DELAY_MEMORY / 2 {
            (self.previous, self.current, self.since) = (self.current, Duration::MAX, now);
        }
        self.current = self.current.min(delay);
        self.current.min(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(250);

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn room_is_what_is_left_of_the_window() {
        let mut window = Window::default();
        assert_eq!(window.room(), WINDOW_INITIAL_BYTES);
        window.sent(10_000, at(0));
        assert_eq!(window.room(), WINDOW_INITIAL_BYTES - 10_000);
        window.sent(10_000, at(0));
        assert_eq!(window.room(), 0);
    }

    #[test]
    fn a_marker_is_wanted_at_a_quarter_and_only_one_is_out() {
        let mut window = Window::default();
        assert!(!window.wants_mark(WINDOW_INITIAL_BYTES / 4 - 1));
        assert!(window.wants_mark(WINDOW_INITIAL_BYTES / 4));
        window.sent(8_000, at(0));
        window.place_mark(at(0));
        assert!(!window.wants_mark(100_000));
        window.confirm_mark(at(1), TARGET);
        assert!(!window.wants_mark(0));
        assert_eq!(window.in_flight(), 0);
    }

    #[test]
    fn a_prompt_reader_gets_a_growing_window() {
        let mut window = Window::default();
        for turn in 0..40 {
            window.sent(window.room(), at(turn * 10));
            window.place_mark(at(turn * 10));
            window.confirm_mark(at(turn * 10 + 2), TARGET);
        }
        assert_eq!(window.size(), WINDOW_MAX_BYTES);
    }

    #[test]
    fn a_slow_reader_gets_what_it_consumes_within_the_target() {
        let mut window = Window::default();
        let (mut now, rate) = (0, 20); // bytes per millisecond
        window.sent(100, at(now));
        window.place_mark(at(now));
        window.confirm_mark(at(now + 1), TARGET);
        for _ in 0..10 {
            let bytes = window.room();
            window.sent(bytes, at(now));
            window.place_mark(at(now));
            now += bytes / rate;
            window.confirm_mark(at(now), TARGET);
        }
        assert!(window.size() <= 2 * 5_020, "{}", window.size());
    }

    #[test]
    fn credit_caps_the_window_and_too_much_of_it_confirms_only_what_was_sent() {
        let mut window = Window::default();
        window.use_credit(1_000);
        assert_eq!(window.room(), 1_000);
        window.sent(1_200, at(0));
        assert_eq!(window.room(), 0);
        window.credit(u64::MAX, at(5), TARGET);
        assert_eq!(window.in_flight(), 0);
        assert_eq!(window.room(), 1_000);
    }

    #[test]
    fn the_smallest_delay_is_forgotten_after_ten_seconds() {
        let mut delay = SmallestDelay::default();
        assert_eq!(delay.observe(Duration::from_millis(1), at(100)), Duration::from_millis(1));
        assert_eq!(delay.observe(Duration::from_millis(9), at(5_000)), Duration::from_millis(1));
        assert_eq!(delay.observe(Duration::from_millis(8), at(10_001)), Duration::from_millis(8));
    }
}
