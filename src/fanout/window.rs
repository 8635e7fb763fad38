//! The in-flight window: how many patch bytes may be sent to a connection and not yet consumed there.
//!
//! What lies in a peer's receive buffer can no longer be merged or dropped, so only as much goes there as the peer
//! consumes within the freshness target. Consumption is confirmed by `Credit`, or, for clients that do not send it, by the
//! pong that answers a ping placed behind the bytes: the *marker*. Positions count patch bytes since the connection began.

use std::time::Duration;

use crate::clock::Moment;
use crate::limits::{
    DELAY_MEMORY, STARVED, STARVED_IN_SMALL_STEPS, WINDOW_INITIAL_BYTES, WINDOW_MAX_BYTES, WINDOW_MIN_BYTES,
};

/// A position in the byte stream and when it was handed to the kernel; what confirms the position tells the delay.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    at: Moment,
    /// Next to nothing lay before it.
    is_probe: bool,
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
    base: BaseDelay,
    /// Of a client that confirms by `Credit`.
    credit: Option<Box<Credit>>,
    is_late: bool,
}

/// What is known of how a client gives credit.
///
/// It may do so in steps that are larger than the window, and would then wait for bytes that nobody sends until it gives credit.
/// So the window may not stay shut for ever to one that gives none: see [`Window::starves_at`].
#[derive(Clone, Debug)]
struct Credit {
    /// Beyond this many unconfirmed bytes nothing is sent: `Hello.credit_bytes`.
    bytes: u64,
    /// The window is no smaller, whatever its size: twice the step of a client that starved, else 0.
    least: u64,
    /// The most that was given at once.
    largest: u64,
    /// When some was given, or `least` raised, last.
    heard_at: Moment,
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
            base: BaseDelay::default(),
            credit: None,
            is_late: false,
        }
    }
}

impl Window {
    /// From now on the client confirms by `Credit`, and takes at most `bytes` ahead of it.
    pub fn use_credit(&mut self, bytes: u64) {
        let credit = Credit { bytes, least: 0, largest: 0, heard_at: Moment::default() };
        self.credit = (bytes > 0).then(|| Box::new(credit));
    }

    /// Whether the client confirms by `Credit`, so that no pings are needed as markers.
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.credit.is_some()
    }

    /// Bytes that may still be sent. The last frame may overshoot only as [`Window::may_overshoot`] says.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.limit().saturating_sub(self.in_flight())
    }

    /// Bytes sent and not yet confirmed.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sent - self.confirmed
    }

    /// While the queueing delay is under the target, a connection with any room may overshoot by one shared frame.
    #[must_use]
    pub fn may_overshoot(&self) -> bool {
        !self.is_late && self.base.probe == Probe::None
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
        self.mark.is_none() && self.in_flight() + upcoming >= (self.limit() / 4).max(1)
    }

    /// A mark was placed behind all bytes sent so far.
    pub fn place_mark(&mut self, now: Moment) {
        if self.in_flight() > 0 {
            let is_probe = self.base.probe == Probe::Drained;
            self.mark = Some(Mark { position: self.sent, at: now, is_probe });
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
        if let Some(credit) = &mut self.credit {
            credit.heard_at = now;
            credit.largest = credit.largest.max(bytes);
            credit.least = credit.least.min(bytes.saturating_mul(2));
            if self.wants_mark(0) {
                self.place_mark(now);
            }
        }
    }

    /// When a client that was sent half of what may be unconfirmed or more, and gives no credit, is to be sent more, since it may
    /// be waiting for that. Soon where it never gave any or gave as much at once, and late where it gave less: that
    /// one most likely just does not read. `None` while there is nothing to wait for.
    #[must_use]
    pub fn starves_at(&self) -> Option<Moment> {
        let credit = self.credit.as_ref()?;
        let (marked_at, limit) = (self.mark?.at, self.limit());
        let gives_much = credit.largest == 0 || credit.largest.saturating_mul(2) >= limit;
        let patience = if gives_much { STARVED } else { STARVED_IN_SMALL_STEPS };
        (limit < credit.bytes && self.in_flight() >= limit / 2).then(|| marked_at.max(credit.heard_at) + patience)
    }

    /// Doubles what may be unconfirmed, if it is time to ([`Window::starves_at`]). Whether it did.
    pub fn feed(&mut self, now: Moment) -> bool {
        let is_due = self.starves_at().is_some_and(|at| at <= now);
        let limit = self.limit();
        if let Some(credit) = self.credit.as_mut().filter(|_| is_due) {
            credit.least = limit * 2;
            credit.heard_at = now;
        }
        is_due
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

    /// What may be unconfirmed at the moment: next to nothing while the base delay is looked for.
    fn limit(&self) -> u64 {
        let limit = if self.base.probe == Probe::None { self.size } else { WINDOW_MIN_BYTES };
        self.credit.as_ref().map_or(limit, |credit| limit.max(credit.least).min(credit.bytes))
    }

    fn confirm(&mut self, position: u64, now: Moment, target: Duration) {
        self.confirmed = position;
        if let Some(mark) = self.mark.filter(|mark| mark.position <= position) {
            self.mark = None;
            let delay = now.since(mark.at);
            let base = self.base.observe(delay, mark.is_probe, now, target);
            let queueing = delay.saturating_sub(base);
            self.is_late = queueing > target;
            if self.is_late {
                let elapsed = now.since(self.draining_since).max(Duration::from_millis(1));
                let bytes = position - self.draining_from;
                let aim = bytes as f64 / elapsed.as_secs_f64() * (base + target).as_secs_f64();
                self.size = (aim as u64).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
            } else if !mark.is_probe && queueing <= target / 2 {
                // A queue is told of when it was passed, and what was sent meanwhile stands in it, too: growing beyond half the
                // target would overshoot.
                self.size = (self.size + self.size / 4).min(WINDOW_MAX_BYTES);
            }
            (self.draining_since, self.draining_from) = (now, position);
        }
        let least = self.credit.as_ref().map_or(0, |credit| credit.least);
        if self.base.probe == Probe::Draining && self.in_flight() <= WINDOW_MIN_BYTES.max(least) {
            self.base.probe = Probe::Drained;
        }
    }
}

/// The delay of a connection when nothing queues, by which the queueing delay is known.
///
/// It is the smallest one that was seen. If none was near it for [`DELAY_MEMORY`], either the path has become longer or the
/// queue has never been empty since, and the delays of a queue must not be taken for the path's: each time the window would
/// grow by the target, until it is as large as the peer's receive buffer. So it is *probed*: the window is shut to its
/// smallest size, and the mark behind what is sent then is the new base, longer or not.
#[derive(Clone, Copy, Debug)]
struct BaseDelay {
    /// In nanoseconds, which is half as large as a [`Duration`].
    smallest_ns: u64,
    /// When a delay was near the smallest last.
    seen_at: Moment,
    probe: Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    /// Too much is in flight to measure anything.
    Draining,
    /// The next mark measures, or is under way.
    Drained,
}

impl Default for BaseDelay {
    fn default() -> Self {
        Self { smallest_ns: u64::MAX, seen_at: Moment::default(), probe: Probe::None }
    }
}

impl BaseDelay {
    /// A mark was confirmed after `delay`. Returns the base.
    fn observe(&mut self, delay: Duration, is_probe: bool, now: Moment, target: Duration) -> Duration {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        if is_probe {
            *self = Self { smallest_ns: delay_ns, seen_at: now, probe: Probe::None };
        }
        self.smallest_ns = self.smallest_ns.min(delay_ns);
        let smallest = Duration::from_nanos(self.smallest_ns);
        if delay <= smallest + target / 4 {
            self.seen_at = now;
        } else if now.since(self.seen_at) >= DELAY_MEMORY && self.probe == Probe::None {
            self.probe = Probe::Draining;
        }
        smallest
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
    fn credit_in_steps_that_are_larger_than_the_window_starves_nobody() {
        const CREDIT: u64 = 256 * 1024;
        for step in [CREDIT / 2, CREDIT - 1_000, 40_000, 1] {
            let mut window = Window::default();
            window.use_credit(CREDIT);
            let (mut now, mut unsaid, mut given) = (0, 0, 0);
            // Ten records of a kilobyte whenever there is room for them; the client reads all that comes at once.
            for _ in 0..6_000 {
                now += 10;
                window.feed(at(now));
                for _ in 0..10 {
                    if window.room() >= 1_000 {
                        window.sent(1_000, at(now));
                        unsaid += 1_000;
                    }
                }
                if window.wants_mark(0) {
                    window.place_mark(at(now));
                }
                assert!(window.in_flight() <= CREDIT);
                if unsaid >= step {
                    window.credit(unsaid, at(now), TARGET);
                    given += unsaid;
                    unsaid = 0;
                }
            }
            assert!(given > 20_000_000, "{given} bytes were read in a minute, in steps of {step}");
        }
    }

    #[test]
    fn a_client_that_stops_reading_is_not_sent_more_at_once() {
        let mut window = Window::default();
        window.use_credit(256 * 1024);
        for ms in 0..20 {
            window.sent(1_000, at(ms));
            window.credit(1_000, at(ms), TARGET);
        }
        window.sent(window.room(), at(100));
        window.place_mark(at(100));
        assert!(!window.feed(at(100 + 9_999)));
        assert_eq!(window.room(), 0);
        assert!(window.feed(at(100 + 10_000)));
        assert!(!window.feed(at(100 + 10_001)));
    }

    /// A path with a delay of its own there and back, and a reader behind it for whom there is always more.
    struct Path {
        now_us: u64,
        window: Window,
        /// When the reader is through with what was sent.
        free_us: u64,
        /// When the mark comes back.
        mark_us: Option<u64>,
        largest: u64,
    }

    impl Path {
        fn new() -> Self {
            Self { now_us: 0, window: Window::default(), free_us: 0, mark_us: None, largest: 0 }
        }

        /// For so many seconds, with a round trip in milliseconds and a rate in bytes per millisecond.
        fn run(&mut self, seconds: u64, round_trip: u64, rate: u64) {
            self.largest = 0;
            let end = self.now_us + seconds * 1_000_000;
            while self.now_us < end {
                self.now_us += 1_000;
                let now = Moment(self.now_us * 1_000);
                if self.mark_us.is_some_and(|due| due <= self.now_us) {
                    self.mark_us = None;
                    self.window.confirm_mark(now, TARGET);
                }
                let arrives = self.now_us + round_trip * 500;
                if self.window.room() > 0 {
                    let bytes = self.window.room();
                    self.window.sent(bytes, now);
                    self.free_us = self.free_us.max(arrives) + bytes * 1_000 / rate;
                    self.largest = self.largest.max(self.window.in_flight());
                }
                if self.window.wants_mark(0) {
                    self.window.place_mark(now);
                    self.mark_us = Some(self.free_us.max(arrives) + round_trip * 500);
                }
            }
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_is_not_taken_for_the_path() {
        let (mut path, rate) = (Path::new(), 20);
        path.run(20, 10, rate);
        // What is consumed in the smallest delay that can be measured and the target.
        let aim = WINDOW_MIN_BYTES + rate * (10 + 250);
        for minute in 0..10 {
            path.run(60, 10, rate);
            assert!(path.largest <= aim * 3 / 2, "{} of {aim} in flight in minute {minute}", path.largest);
        }
    }

    #[test]
    fn a_path_that_became_longer_is_not_taken_for_a_queue() {
        let (mut path, rate) = (Path::new(), 1_000);
        for round_trip in [10, 600, 10] {
            path.run(20, round_trip, rate);
            path.run(20, round_trip, rate);
            assert!((130_000..400_000).contains(&path.largest), "{} in flight with {round_trip} ms", path.largest);
        }
    }

    #[test]
    fn a_probe_ends_whatever_the_size_of_records() {
        let mut window = Window::default();
        window.sent(100, at(0));
        window.place_mark(at(0));
        window.confirm_mark(at(1), TARGET);
        let mut now = 1;
        let mut probes = 0;
        for _ in 0..1_000 {
            // One record goes whenever there is any room, and it is far beyond it.
            if window.room() > 0 {
                window.sent(60_000, at(now));
            }
            if window.wants_mark(0) {
                window.place_mark(at(now));
            }
            now += 300;
            probes += u64::from(window.base.probe != Probe::None);
            window.confirm_mark(at(now), TARGET);
        }
        assert!(probes > 0 && probes <= 30, "{probes} marks in five minutes");
    }
}
