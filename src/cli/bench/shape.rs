//! What a run is made of.

/// What a run is made of.
pub(super) struct Shape {
    pub(super) subscribers: usize,
    /// So many of them read slowly, at `slow_rate`.
    pub(super) slow: usize,
    /// So many of them read nothing until the end.
    pub(super) stalled: usize,
    /// Bytes per second.
    pub(super) slow_rate: u64,
    /// Bytes of each value.
    pub(super) bytes: usize,
    /// 0: events.
    pub(super) keys: u64,
    /// `Hello.credit_bytes`.
    pub(super) credit: u64,
    /// Whether it is asked how old what everyone holds is.
    pub(super) samples_ages: bool,
    /// They take turns at a rate; each has its own publishes outstanding.
    pub(super) publishers: u32,
    /// So many more come later ([`Load::make_publisher`](super::load::Load::make_publisher)).
    pub(super) publishers_later: u32,
}

impl Shape {
    /// One publisher of events of 128 bytes, and healthy subscribers.
    pub(super) fn plain(subscribers: usize) -> Self {
        Self {
            subscribers,
            slow: 0,
            stalled: 0,
            slow_rate: 0,
            bytes: 128,
            keys: 0,
            credit: 0,
            samples_ages: false,
            publishers: 1,
            publishers_later: 0,
        }
    }
}

/// How a subscriber reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// At once.
    Healthy,
    /// By the clock, as much as its rate allows.
    Slow,
    /// Not before the end.
    Stalled,
}

impl Reading {
    /// How the subscriber in that place reads, so that each kind is spread over all of them.
    pub(super) fn of(at: usize, shape: &Shape) -> Self {
        let is_among = |count: usize| (at + 1) * count / shape.subscribers > at * count / shape.subscribers;
        match (is_among(shape.slow + shape.stalled), is_among(shape.stalled)) {
            (_, true) => Self::Stalled,
            (true, false) => Self::Slow,
            (false, false) => Self::Healthy,
        }
    }
}

/// How the publisher goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drive {
    /// Not at all.
    Rest,
    /// What was recorded, when it is due ([`Load::feed`](super::load::Load::feed)).
    Feed,
    /// So many records a second, whether they are acknowledged or not.
    Rate(u64),
    /// As fast as it goes, with so many publishes unacknowledged.
    Outstanding(u64),
}

impl Drive {
    /// Records a second.
    pub(super) fn rate(self) -> Option<u64> {
        match self {
            Self::Rate(rate) => Some(rate),
            Self::Rest | Self::Feed | Self::Outstanding(_) => None,
        }
    }

    /// Publishes unacknowledged.
    pub(super) fn outstanding(self) -> Option<u64> {
        match self {
            Self::Outstanding(count) => Some(count),
            Self::Rest | Self::Feed | Self::Rate(_) => None,
        }
    }
}

/// How results that keep one of the two say it.
pub(super) fn pace(rate: Option<u64>, outstanding: Option<u64>) -> String {
    match (rate, outstanding) {
        (Some(rate), _) => format!("{rate} records/s"),
        (None, outstanding) => format!("{} publishes outstanding each", outstanding.unwrap_or(0)),
    }
}
