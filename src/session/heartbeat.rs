//! Alive, stalled or dead: what silence on a connection means.
//!
//! ```text
//!            interval over             answer overdue              TCP answers
//!  quiet ───────────────────▶ asked ───────────────────▶ probed ───────────────▶ stalled ──┐
//!    ▲                          │                          │  TCP is silent, twice   │     │ stall_timeout
//!    └──────── any frame ───────┴──────────────────────────┴─────────────▶ dead ◀────┼─────┘
//!    └─────────────────────────────── any frame ─────────────────────────────────────┘
//! ```

use std::time::Duration;

use crate::clock::Moment;

/// Between the first look at a silent peer's TCP and the one that decides.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// A stalled peer's TCP is looked at so often.
const STALLED_LOOK: Duration = Duration::from_secs(5);

/// One connection's heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    state: State,
    /// When `state` wants to be looked at.
    deadline: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    Asked,
    /// The answer is overdue and TCP was silent once.
    Suspected,
    /// TCP answers, the application does not.
    Stalled {
        since: Moment,
    },
}

/// What a deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It has not come yet.
    Nothing,
    /// Send a ping.
    Ping,
    /// Look whether the peer's TCP acknowledges, and tell [`Heartbeat::probed`].
    Probe,
}

/// What becomes of a silent peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is gone.
    Dead,
    /// Its TCP answers, but it has been silent for longer than we wait.
    StalledTooLong,
}

impl Heartbeat {
    /// Starts; the first ping comes after `first` (a random half to whole interval, so that connections made together do not
    /// stay together).
    #[must_use]
    pub fn new(now: Moment, first: Duration) -> Self {
        Self { state: State::Quiet, deadline: now + first }
    }

    /// When to call [`Heartbeat::beat`].
    #[must_use]
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Whether the peer's TCP answers while the peer does not.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        matches!(self.state, State::Stalled { .. })
    }

    /// A frame came, of whatever kind.
    pub fn heard(&mut self, now: Moment, interval: Duration) {
        if self.state != State::Quiet {
            self.state = State::Quiet;
            self.deadline = now + interval;
        }
    }

    /// Reading from the peer is paused by us: nothing is held against it.
    pub fn suspend(&mut self, now: Moment, interval: Duration) {
        self.state = State::Quiet;
        self.deadline = now + interval;
    }

    /// What is to be done at `now`.
    pub fn beat(&mut self, now: Moment, answer: Duration) -> Beat {
        if now < self.deadline {
            return Beat::Nothing;
        }
        if self.state == State::Quiet {
            self.state = State::Asked;
            self.deadline = now + answer;
            return Beat::Ping;
        }
        Beat::Probe
    }

    /// What follows from a look at the peer's TCP.
    pub fn probed(&mut self, is_acknowledging: bool, now: Moment, stall_timeout: Duration) -> Verdict {
        match (self.state, is_acknowledging) {
            (State::Suspected, false) => return Verdict::Dead,
            (State::Stalled { since }, true) if now.since(since) >= stall_timeout => return Verdict::StalledTooLong,
            (State::Stalled { .. }, true) => {}
            (_, true) => self.state = State::Stalled { since: now },
            (_, false) => self.state = State::Suspected,
        }
        self.deadline = match self.state {
            State::Stalled { since } if is_acknowledging => (now + STALLED_LOOK).min(since + stall_timeout),
            _ => now + SECOND_LOOK,
        };
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const ANSWER: Duration = Duration::from_secs(10);
    const STALL: Duration = Duration::from_mins(5);

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// Runs the heartbeat alone from second to second; returns the seconds of pings, and the end.
    fn run(
        seconds: u64,
        acknowledges: impl Fn(u64) -> bool,
        hears: impl Fn(u64) -> bool,
    ) -> (Vec<u64>, Option<(u64, Verdict)>) {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL);
        let mut pings = Vec::new();
        for second in 0..seconds {
            if hears(second) {
                heartbeat.heard(at(second), INTERVAL);
            }
            match heartbeat.beat(at(second), ANSWER) {
                Beat::Nothing => {}
                Beat::Ping => pings.push(second),
                Beat::Probe => match heartbeat.probed(acknowledges(second), at(second), STALL) {
                    Verdict::Keep => {}
                    end => return (pings, Some((second, end))),
                },
            }
        }
        (pings, None)
    }

    #[test]
    fn a_dead_peer_is_found_within_forty_seconds() {
        let (pings, end) = run(600, |_| false, |_| false);
        assert_eq!(pings, [25]);
        assert_eq!(end, Some((37, Verdict::Dead)));
    }

    #[test]
    fn a_stalled_peer_is_kept_for_the_stall_timeout() {
        let (_, end) = run(600, |_| true, |_| false);
        assert_eq!(end, Some((335, Verdict::StalledTooLong)));
    }

    #[test]
    fn the_last_look_at_a_stalled_peer_is_at_the_stall_timeout() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL);
        assert_eq!(heartbeat.beat(at(25), ANSWER), Beat::Ping);
        assert_eq!(heartbeat.beat(at(35), ANSWER), Beat::Probe);
        let timeout = Duration::from_secs(7);
        assert_eq!(heartbeat.probed(true, at(35), timeout), Verdict::Keep);
        assert_eq!(heartbeat.probed(true, at(40), timeout), Verdict::Keep);
        assert_eq!(heartbeat.deadline(), at(42), "not a whole interval of looks later");
        assert_eq!(heartbeat.probed(true, at(42), timeout), Verdict::StalledTooLong);
    }

    #[test]
    fn a_peer_that_stalls_and_then_dies_is_found() {
        let (_, end) = run(600, |second| second < 100, |_| false);
        assert_eq!(end, Some((102, Verdict::Dead)));
    }

    #[test]
    fn any_frame_is_life() {
        let (pings, end) = run(600, |_| false, |second| second % 30 == 0);
        assert_eq!(end, None);
        assert!(pings.len() > 10, "{pings:?}");
    }

    #[test]
    fn one_silent_look_is_not_death() {
        let (_, end) = run(120, |second| second != 35, |_| false);
        assert_eq!(end, None);
    }
}
