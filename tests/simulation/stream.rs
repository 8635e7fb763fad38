//! What the server says on one connection: looked at when it is handed to the kernel, kept for the client to read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use prost::Message as _;
use tidegate::clock::Moment;
use tidegate::protocol::wire::{self, server_frame::Body};
use tidegate::shard::Ledger;
use tidegate::topic::{Pattern, TopicClass, TopicName};

use crate::explain::{Options, Pressure, Standing, View, explain};
use crate::model::Topic;
use crate::tap::Sent;

/// A frame of the server.
#[derive(Clone, Debug)]
pub enum Frame {
    Http(String),
    Ping(Vec<u8>),
    Pong,
    Close(u16),
    /// The length is that of the message, which credit counts.
    Message(Rc<wire::ServerFrame>, u64),
}

/// A `Subscribe` that the client wrote.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request: u64,
    /// The client read its answer.
    pub is_answered: bool,
    pub pattern: Pattern,
    pub options: Options,
    pub resume: Option<wire::Position>,
    /// The last offset of each topic that a client had seen acknowledged when it was written.
    pub acknowledged: BTreeMap<u32, u64>,
    /// Head and last evicted event of each topic when it was written.
    pub heads: BTreeMap<u32, (u64, u64)>,
}

/// The topics of the scenario.
#[derive(Debug, Default)]
pub struct Models {
    pub classes: Vec<TopicClass>,
    pub topics: BTreeMap<u32, Topic>,
    /// Topics that exist at their home: the epoch, and the offset from which on positions can be resumed.
    pub living: BTreeMap<u32, (u64, u64)>,
    /// Summed over everything that was begun.
    pub ledgers: Vec<Ledger>,
    pub now: Moment,
    pub turn: u64,
    /// Shards do not wait for those that stall: what was acknowledged there may be shown later.
    pub is_impatient: bool,
}

/// One connection's bytes from the server.
#[derive(Debug, Default)]
pub struct Stream {
    /// What is still to be sent of the frame that was begun.
    rest: Vec<u8>,
    has_head: bool,
    has_closed: bool,
    /// Everything begun that the client has not read.
    pub expected: VecDeque<u8>,
    /// Frames begun, and their lengths.
    pub frames: VecDeque<(usize, Frame)>,
    pub asked: Vec<Asked>,
    /// Where the subscriber of each topic may stand.
    pub standings: BTreeMap<u32, Vec<Standing>>,
    /// Topics whose `Subscribed` was sent, and no patch since.
    owed: BTreeSet<u32>,
    /// The socket did not take all of the last send.
    is_cut: bool,
    /// After the last turn.
    pressure: Pressure,
}

impl Stream {
    /// The server handed this over.
    pub fn sent(&mut self, sent: &Sent, models: &mut Models) {
        if sent.is_broken {
            return;
        }
        self.is_cut = sent.taken < sent.bytes.len();
        assert!(sent.bytes.starts_with(&self.rest), "the rest of a cut frame comes first");
        let mut at = self.rest.len();
        if sent.taken < at {
            self.rest.drain(..sent.taken);
            return;
        }
        self.rest.clear();
        while at < sent.taken {
            let (len, frame) = self.parse(&sent.bytes[at..]);
            assert!(!self.has_closed, "a close frame is the last, not {frame:?}");
            self.expected.extend(&sent.bytes[at..at + len]);
            if let Frame::Message(message, _) = &frame {
                self.look_at(message.body.as_ref().expect("a frame has a body"), message.request, models);
            }
            self.has_closed = matches!(frame, Frame::Close(_));
            self.frames.push_back((len, frame));
            if at + len > sent.taken {
                self.rest = sent.bytes[sent.taken..at + len].to_vec();
            }
            at += len;
        }
    }

    /// A turn is over: was the connection brought to the head in it?
    pub fn end_turn(&mut self, models: &Models) {
        let is_behind = |id: &u32, standing: &Standing| {
            standing.is_reset_due || models.topics.get(id).is_some_and(|topic| standing.cursor < topic.head())
        };
        let mut topics = self.standings.iter();
        let is_anywhere_behind = topics.any(|(id, standings)| standings.iter().any(|standing| is_behind(id, standing)));
        // One that waits for the time that its options say is behind without pressure, and so is one that other shards are asked
        // about, because it is subscribed to again.
        let is_asked_again = |id: &u32| {
            let name = models.topics.get(id).map(|topic| TopicName::parse(&topic.name).expect("valid"));
            let mut open = self.asked.iter().filter(|asked| !asked.is_answered);
            name.is_some_and(|name| open.any(|asked| asked.pattern.matches(&name)))
        };
        let mut topics = self.standings.iter().filter(|(id, _)| models.living.contains_key(id) && !is_asked_again(id));
        let is_surely_behind = topics.any(|(id, standings)| {
            let is_pressed = |standing: &Standing| {
                is_behind(id, standing) && standing.options.max_hz == 0 && !standing.options.has_filter()
            };
            !standings.is_empty() && standings.iter().all(is_pressed)
        });
        self.pressure = match (is_surely_behind, is_anywhere_behind || self.is_cut || !self.owed.is_empty()) {
            (true, _) => Pressure::Certain,
            (false, true) => Pressure::Possible,
            (false, false) => Pressure::None,
        };
    }

    /// The first frame, which the server hands over whole.
    fn parse(&mut self, bytes: &[u8]) -> (usize, Frame) {
        if !self.has_head {
            self.has_head = true;
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
            return (end, Frame::Http(String::from_utf8_lossy(&bytes[..end]).into_owned()));
        }
        let (head, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize),
            len => (2, usize::from(len)),
        };
        let payload = &bytes[head..head + len];
        let frame = match bytes[0] {
            0x82 => {
                let message = wire::ServerFrame::decode(payload).expect("a ServerFrame");
                Frame::Message(Rc::new(message), len as u64)
            }
            0x88 => Frame::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            0x89 => Frame::Ping(payload.to_vec()),
            0x8A => Frame::Pong,
            other => panic!("a frame that begins with {other:#x}"),
        };
        (head + len, frame)
    }

    fn look_at(&mut self, body: &Body, request: u64, models: &mut Models) {
        match body {
            Body::Subscribed(subscribed) if subscribed.topic_id > 0 => self.subscribed(subscribed, request, models),
            Body::Subscribed(subscribed) => {
                let mut asked = self.asked.iter().filter(|asked| asked.request == request && !models.is_impatient);
                let missed = |id: &u32| {
                    let known = models.topics.get(id);
                    known.is_some_and(|topic| topic.name == subscribed.topic) && models.living.contains_key(id)
                };
                let is_missed = asked.any(|asked| asked.acknowledged.keys().any(missed));
                assert!(!is_missed, "{subscribed:?}: a publish to it had been acknowledged");
            }
            Body::Unsubscribed(unsubscribed) => {
                let pattern = Pattern::parse(&unsubscribed.topic).expect("as it was subscribed");
                match unsubscribed.reason() {
                    wire::Code::Ok => {
                        // Later ones of the same string may be under way.
                        let of_string: Vec<u64> = self
                            .asked
                            .iter()
                            .filter(|asked| asked.pattern == pattern && asked.request < request)
                            .map(|asked| asked.request)
                            .collect();
                        self.asked.retain(|asked| !of_string.contains(&asked.request));
                        for standings in self.standings.values_mut() {
                            standings.retain(|standing| !of_string.contains(&standing.subscription));
                        }
                    }
                    _ => self.standings.retain(|id, _| models.topics[id].name != unsubscribed.topic),
                }
                self.owed.retain(|id| self.standings.get(id).is_some_and(|standings| !standings.is_empty()));
            }
            Body::Patch(patch) => self.patch(patch, models),
            _ => {}
        }
    }

    fn subscribed(&mut self, subscribed: &wire::Subscribed, request: u64, models: &Models) {
        let id = subscribed.topic_id;
        let topic = models.topics.get(&id).unwrap_or_else(|| panic!("topic {id} has no records"));
        assert_eq!((&subscribed.topic, subscribed.head), (&topic.name, topic.head()), "Subscribed");
        let name = TopicName::parse(&topic.name).expect("valid");
        if let Some(asked) = self.asked.iter().find(|asked| asked.request == request && !models.is_impatient) {
            let acknowledged = asked.acknowledged.get(&id).copied().unwrap_or_default();
            assert!(subscribed.head >= acknowledged, "{subscribed:?}: {acknowledged} had been acknowledged");
            let (epoch, floor) = models.living.get(&id).copied().unwrap_or((subscribed.epoch, u64::MAX));
            assert_eq!(subscribed.epoch, epoch, "{}: epoch", topic.name);
            let is_known = asked.resume.is_some_and(|position| position.epoch == epoch && position.offset >= floor);
            assert!(subscribed.resumed || !is_known, "{subscribed:?}: {:?} is not below {floor}", asked.resume);
        }
        self.owed.insert(id);
        let standings = self.standings.entry(id).or_default();
        let asked = self.asked.iter().filter(|asked| asked.pattern.matches(&name));
        let served_by: Vec<&Asked> = match (request, subscribed.resumed) {
            // A new topic that several subscriptions match: each says so, the first serves.
            (0, true) if standings.is_empty() => panic!("nobody asked, so nothing was resumed"),
            (0, true) => return,
            (0, false) => asked.collect(),
            // The one that serves goes on as it did, or this one does from where it said.
            (_, true) => asked.filter(|asked| asked.request == request && asked.resume.is_some()).collect(),
            (_, false) => asked.filter(|asked| asked.request == request).collect(),
        };
        if !subscribed.resumed {
            standings.clear();
        }
        for asked in served_by {
            let (head, evicted) = asked.heads.get(&id).copied().unwrap_or_default();
            let standing = Standing {
                subscription: asked.request,
                options: asked.options.clone(),
                cursor: if subscribed.resumed { asked.resume.expect("chosen so").offset } else { 0 },
                is_reset_due: !subscribed.resumed,
                reset_head: if subscribed.resumed { 0..=0 } else { head..=topic.head() },
                never_due: if subscribed.resumed { 0..=0 } else { evicted..=topic.evicted_to },
            };
            standings.push(standing);
        }
    }

    fn patch(&mut self, patch: &wire::Patch, models: &mut Models) {
        let topic = models.topics.get(&patch.topic_id).expect("a topic with records");
        let class = &models.classes[topic.class];
        let view = View { topic, class, now: models.now, turn: models.turn, pressure: self.pressure };
        self.owed.remove(&patch.topic_id);
        let standings = self.standings.get_mut(&patch.topic_id).expect("Subscribed comes before a patch");
        let explained: Vec<_> = standings.iter().map(|standing| explain(standing, patch, view)).collect();
        let good: Vec<Standing> = explained.iter().filter_map(|explained| explained.as_ref().ok().cloned()).collect();
        assert!(!good.is_empty(), "{}: {explained:?}\n{standings:?}\n{patch:?}", topic.name);
        *standings = good;
        if patch.more && self.pressure == Pressure::None {
            // A window that is full by now is pressure for what follows in this turn.
            self.pressure = Pressure::Possible;
        }
        let named = patch.records.len() as u64 + patch.filtered + patch.expired + patch.overrun + patch.lost;
        let ledger = &mut models.ledgers[topic.class];
        ledger.due += patch.to - patch.from;
        ledger.delivered += patch.records.len() as u64;
        ledger.conflated += patch.to - patch.from - named;
        ledger.filtered += patch.filtered;
        ledger.expired += patch.expired;
        ledger.overrun += patch.overrun;
        ledger.lost += patch.lost;
    }

    /// Notes that the client read the answer to a `Subscribe`. True if none about the topic is to come: what it holds from now on
    /// came under what it asked for last.
    pub fn is_last_answer(&mut self, request: u64, topic: &str) -> bool {
        let name = TopicName::parse(topic).expect("valid");
        self.asked.iter_mut().filter(|asked| asked.request == request).for_each(|asked| asked.is_answered = true);
        self.asked.iter().filter(|asked| asked.pattern.matches(&name)).all(|asked| asked.is_answered)
    }

    /// The client read `bytes`: they are what was sent. Returns the frames that they complete.
    pub fn read(&mut self, bytes: &[u8], unfinished: &mut usize) -> Vec<(usize, Frame)> {
        for byte in bytes {
            assert_eq!(self.expected.pop_front().as_ref(), Some(byte), "what arrives is what was sent");
        }
        *unfinished += bytes.len();
        let mut complete = Vec::new();
        while let Some((len, _)) = self.frames.front()
            && *len <= *unfinished
        {
            *unfinished -= *len;
            complete.push(self.frames.pop_front().expect("just seen"));
        }
        complete
    }
}
