//! Plays a recording at its own pace, or faster or slower.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::clock::Moment;

/// When each event of a recording is due. The first one is due at once, the others as long after it as they were recorded, divided
/// by the speed.
#[derive(Clone, Debug)]
pub struct Pace {
    speed: f64,
    /// Recorded time and moment of the first event.
    start: Option<(u64, Moment)>,
}

/// What is not a speed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a speed is 0 (as fast as it goes) or a positive number, not {0}")]
pub struct NotSpeed(pub f64);

impl Pace {
    /// A pace of `speed` recorded seconds a second; 0: as fast as it goes.
    ///
    /// # Errors
    ///
    /// The speed is negative or not finite.
    pub fn new(speed: f64) -> Result<Self, NotSpeed> {
        if speed.is_finite() && speed >= 0.0 { Ok(Self { speed, start: None }) } else { Err(NotSpeed(speed)) }
    }

    /// How long to wait at `now` for an event that was recorded at `at_ns`; nothing if it is late. Counted from the first event, so
    /// that what is late is caught up and errors do not add up.
    pub fn wait(&mut self, at_ns: u64, now: Moment) -> Duration {
        if self.speed == 0.0 {
            return Duration::ZERO;
        }
        let (first_ns, start) = *self.start.get_or_insert((at_ns, now));
        // Truncated to whole nanoseconds; a float takes what is too long for a u64 to its end.
        let after_ns = (at_ns.saturating_sub(first_ns) as f64 / self.speed) as u64;
        (start + Duration::from_nanos(after_ns)).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Plays events recorded at `recorded` seconds in virtual time; each takes `work_ns` to publish. The seconds at which they came.
    fn play(speed: f64, recorded: &[u64], work_ns: u64) -> Vec<f64> {
        let mut pace = Pace::new(speed).expect("a speed of this test");
        let mut now = Moment(77);
        let mut came = Vec::new();
        for seconds in recorded {
            now = now + pace.wait(1_723_161_253 * SECOND + seconds * SECOND, now);
            came.push((now.0 - 77) as f64 / SECOND as f64);
            now = now + Duration::from_nanos(work_ns);
        }
        came
    }

    #[test]
    fn events_come_when_they_were_recorded_divided_by_the_speed() {
        assert_eq!(play(1.0, &[0, 1, 3], 0), [0.0, 1.0, 3.0]);
        assert_eq!(play(4.0, &[0, 1, 3], 0), [0.0, 0.25, 0.75]);
        assert_eq!(play(0.5, &[0, 1, 3], 0), [0.0, 2.0, 6.0]);
        assert_eq!(play(0.0, &[0, 1, 3], 0), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_late_is_caught_up() {
        assert_eq!(play(1.0, &[0, 1, 1, 1, 10], 2 * SECOND), [0.0, 2.0, 4.0, 6.0, 10.0]);
        // A recording whose clock goes back does not wait either.
        assert_eq!(play(1.0, &[5, 4, 6], 0), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn what_is_no_speed_is_refused() {
        for speed in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(Pace::new(speed).is_err());
        }
        let mut slowest = Pace::new(f64::MIN_POSITIVE).expect("it is positive");
        assert_eq!(slowest.wait(0, Moment(0)), Duration::ZERO);
        assert!(slowest.wait(1, Moment(0)) > Duration::from_secs(3_600));
    }
}
