//! Subscribers that know the protocol and nothing else: they stall, they vanish, they come back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use prost::Message as _;
use tidegate::protocol::wire::{self, client_frame};
use tungstenite::Message;

use super::follower::{Follower, Part, Tally};
use super::input::World;
use super::progress::Progress;
use crate::support::Client;

/// After so many cuts a subscriber stays.
const CUTS: usize = 12;

/// What a subscriber does with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    Steady,
    /// Comes when this much of the input (in percent) has been published.
    Late(usize),
    /// Stops reading for a while, and goes on.
    Stalls,
    /// Closes its socket in the middle of everything, and resumes.
    Closes,
    /// Resets its connection in the middle of everything, and resumes.
    Resets,
    /// Stands behind a relay that cuts it off at any byte, and resumes.
    IsCutOff,
}

pub(super) struct Subscriber<'w> {
    pub(super) world: &'w World,
    pub(super) address: SocketAddr,
    pub(super) progress: &'w Progress,
    pub(super) habit: Habit,
    pub(super) part: Part,
    pub(super) subscriptions: Vec<wire::Subscribe>,
    /// The topics that they match.
    pub(super) wanted: Vec<String>,
    pub(super) seed: u64,
}

impl Subscriber<'_> {
    /// Lives until it was brought to the end of its topics.
    pub(super) fn run(self) -> Tally {
        let mut random = Random(self.seed);
        let mut follower = Follower::new(self.world, self.part);
        let total = self.progress.total();
        if let Habit::Late(percent) = self.habit {
            self.progress.wait(total * percent / 100);
        }
        let begun = Instant::now();
        for connection in 0.. {
            let mut client = Client::hello(self.address);
            let mut is_open = self.subscriptions.iter().all(|subscribe| {
                let resume = follower.position(&subscribe.topic);
                say(&mut client, wire::Subscribe { resume, ..subscribe.clone() })
            });
            let mut frames_left = match self.habit {
                Habit::Stalls => random.between(1, 60),
                Habit::Closes | Habit::Resets if connection < CUTS => random.between(1, 60),
                _ => u64::MAX,
            };
            while is_open && frames_left > 0 && !follower.is_at_end(&self.wanted) {
                match client.try_frame() {
                    Ok(frame) => follower.take(frame),
                    Err(ending) if self.habit == Habit::IsCutOff => {
                        is_open = false;
                        drop(ending);
                    }
                    Err(ending) => panic!("{:?} was cut off: {ending:?}", self.habit),
                }
                frames_left -= 1;
                if frames_left == 0 && self.habit == Habit::Stalls {
                    self.progress.wait(self.progress.now() + random.below(total / 8));
                    frames_left = random.between(1, 60);
                }
            }
            if follower.is_at_end(&self.wanted) {
                break;
            }
            if self.habit == Habit::Resets {
                let stream = socket2::SockRef::from(client.socket.get_ref());
                stream.set_linger(Some(Duration::ZERO)).expect("TCP");
            }
            follower.disconnected();
            drop(client);
            self.progress.wait(self.progress.now() + random.below(total / 20));
        }
        self.check_rate(follower.tally.patches, begun.elapsed());
        follower.finish(&self.wanted)
    }

    fn check_rate(&self, patches: u64, elapsed: Duration) {
        let [subscribe] = &self.subscriptions[..] else { return };
        if subscribe.max_hz > 0 {
            let most = (elapsed.as_secs_f64() * f64::from(subscribe.max_hz)) as u64 + 1;
            assert!(patches <= most * self.wanted.len() as u64, "{patches} patches, not {most} for each topic");
        }
    }
}

/// False if the connection has been cut off.
fn say(client: &mut Client, subscribe: wire::Subscribe) -> bool {
    let body = Some(client_frame::Body::Subscribe(subscribe));
    let frame = wire::ClientFrame { request: 1, body };
    client.socket.send(Message::Binary(frame.encode_to_vec().into())).is_ok()
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }
}
