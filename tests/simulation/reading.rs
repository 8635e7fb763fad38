//! Clients read: whatever arrives is checked against what was sent, applied, and answered.

use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Moment;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use crate::client::{Client, Held, Link, Pace, UPGRADE, masked, message};
use crate::stream::{Asked, Frame, Stream};
use crate::world::World;
use tidegate::topic::{Pattern, TopicName};

impl World {
    /// A client connects and says Hello; with its session, if it has one.
    pub fn connect(&mut self, client: usize) -> usize {
        let (now, random) = (self.now, self.below(100));
        let earlier = self.links.iter_mut().filter(|link| link.client == client);
        earlier.for_each(|link| link.was_taken_over = true);
        let pace = match self.clients[client].slowness {
            Some(pace) => pace,
            None => Pace::Prompt,
        };
        let credit_bytes = self.clients[client].credit_bytes;
        let session = self.clients[client].session.clone();
        let link = self.link(|peer| Link {
            client,
            peer,
            stream: Stream::default(),
            unfinished: 0,
            pace,
            next_read: now,
            has_credit: credit_bytes > 0,
            is_welcome: false,
            was_left: false,
            was_taken_over: false,
            close_code: None,
            is_over: false,
            began: now,
            topics: Default::default(),
            shown: session.clone(),
            session: Bytes::new(),
        });
        let peer = self.links[link].peer;
        self.simulation_of(link).set_latency(peer, Duration::from_micros(100 + 500 * random as u64));
        self.clients[client].link = Some(link);
        self.simulation_of(link).peer_write(peer, UPGRADE);
        self.say(|| format!("client {client} connects as link {link}, session {} bytes", session.len()));
        let hello = wire::Hello { session, credit_bytes, agent: "simulated".into(), ..wire::Hello::default() };
        self.write(link, client_frame::Body::Hello(hello));
        link
    }

    /// Writes a frame under a request number of its own, which it returns.
    pub fn write(&mut self, link: usize, body: client_frame::Body) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let peer = self.links[link].peer;
        let bytes = message(request, body);
        self.simulation_of(link).peer_write(peer, &bytes);
        request
    }

    /// All links read what their pace allows; returns when the next of them wants to.
    pub fn read_all(&mut self) -> Moment {
        let mut next = Moment::NEVER;
        for link in 0..self.links.len() {
            if !self.links[link].is_over {
                next = next.min(self.read(link));
            }
        }
        next
    }

    fn read(&mut self, link: usize) -> Moment {
        let (now, peer, pace) = (self.now, self.links[link].peer, self.links[link].pace);
        let (most, pause) = match pace {
            Pace::Prompt => (usize::MAX, Duration::ZERO),
            Pace::Slow(bytes, pause) => (bytes, pause),
            Pace::Stalled(until) if now < until => return until,
            Pace::Stalled(_) => (usize::MAX, Duration::ZERO),
        };
        if now < self.links[link].next_read {
            return self.links[link].next_read;
        }
        if self.watched(link).peer_unread(peer) > 0 {
            let bytes = self.simulation_of(link).peer_read(peer, most);
            let held = &mut self.links[link];
            let frames = held.stream.read(&bytes, &mut held.unfinished);
            for (_, frame) in frames {
                self.hear(link, frame);
            }
            if pause > Duration::ZERO {
                self.links[link].next_read = now + pause;
                return now + pause;
            }
        }
        if self.watched(link).peer_end(peer).is_some() {
            self.ended(link);
        }
        Moment::NEVER
    }

    /// The client sees that a connection is over.
    fn ended(&mut self, link: usize) {
        let held = &mut self.links[link];
        held.is_over = true;
        let client = held.client;
        let is_explained = held.was_left || held.close_code.is_some() || self.is_deadly;
        assert!(is_explained, "link {link} ended without a word");
        self.say(|| format!("link {link} of client {client} is over"));
        if !self.links[link].was_left {
            let peer = self.links[link].peer;
            self.links[link].was_left = true;
            self.simulation_of(link).peer_finish(peer);
        }
        if self.clients[client].link == Some(link) {
            self.clients[client].link = None;
        }
    }

    /// Whether a Hello with this connection's session may still have been on its way, on a path that the client gave up: it takes
    /// the session over when it arrives, from a connection that waits to be welcomed, too.
    fn is_shown_late(&self, link: usize) -> bool {
        let held = &self.links[link];
        let session = if held.is_welcome { &held.session } else { &held.shown };
        let mut others = self.links.iter().enumerate().filter(|(other, _)| *other != link);
        others.any(|(_, other)| other.client == held.client && !other.is_welcome && other.shown == *session)
    }

    fn hear(&mut self, link: usize, frame: Frame) {
        let (peer, client) = (self.links[link].peer, self.links[link].client);
        match frame {
            Frame::Http(head) => assert!(head.starts_with("HTTP/1.1 101 "), "{head}"),
            Frame::Ping(payload) => self.simulation_of(link).peer_write(peer, &masked(10, &payload)),
            Frame::Pong => {}
            Frame::Close(code) => {
                self.say(|| format!("link {link} is closed with {code}"));
                self.links[link].close_code = Some(code);
                let is_expected = match code {
                    1000 => self.links[link].was_left,
                    1001 => true,
                    4500 => self.links[link].was_taken_over || self.is_shown_late(link),
                    4001 => self.links[link].pace != Pace::Prompt || self.is_deadly,
                    _ => false,
                };
                assert!(is_expected, "link {link} of client {client} was closed with {code}");
            }
            Frame::Message(message, len) => {
                let body = message.body.as_ref().expect("a frame has a body");
                if let (Body::Patch(_), true) = (body, self.links[link].has_credit) {
                    self.write(link, client_frame::Body::Credit(wire::Credit { bytes: len }));
                }
                if self.clients[client].link == Some(link) {
                    self.heed(link, client, message.request, body);
                }
            }
        }
    }

    /// A message on the client's present connection.
    fn heed(&mut self, link: usize, client: usize, request: u64, body: &Body) {
        match body {
            Body::Welcome(welcome) => self.welcome(link, client, welcome),
            Body::Subscribed(subscribed) if subscribed.topic_id > 0 => {
                self.links[link].topics.insert(subscribed.topic_id, subscribed.topic.clone());
                let may_resume = self.links[link].stream.is_last_answer(request, &subscribed.topic);
                let held = self.clients[client].held.entry(subscribed.topic.clone()).or_default();
                if !subscribed.resumed || held.epoch != subscribed.epoch {
                    *held = Held { epoch: subscribed.epoch, may_resume, ..Held::default() };
                }
            }
            Body::Subscribed(_) => _ = self.links[link].stream.is_last_answer(request, "none"),
            Body::Patch(patch) => {
                let name = &self.links[link].topics[&patch.topic_id];
                self.clients[client].held.get_mut(name).expect("subscribed").apply(patch);
            }
            Body::Published(published) => self.acknowledged(client, request, published),
            Body::Unsubscribed(unsubscribed) if unsubscribed.reason() != wire::Code::Ok => {
                self.clients[client].held.remove(&unsubscribed.topic);
            }
            Body::Error(error) => {
                self.say(|| format!("client {client}: {error:?}"));
                let is_publish = self.requests.contains_key(&request);
                assert!(is_publish, "only publishes are refused here: {error:?}");
                let number = self.requests[&request];
                self.publishes[number].was_refused = true;
                self.clients[client].pending.retain(|pending| pending.number != number);
            }
            _ => {}
        }
    }

    fn welcome(&mut self, link: usize, client: usize, welcome: &wire::Welcome) {
        let is_same = self.clients[client].session == welcome.session;
        self.clients[client].session = welcome.session.clone();
        self.links[link].is_welcome = true;
        self.links[link].session = welcome.session.clone();
        let pending: Vec<_> = self.clients[client].pending.iter().cloned().collect();
        if is_same {
            // Whether they were applied or not: once, and in order.
            for (at, pending) in pending.into_iter().enumerate() {
                let body = self.publishes[pending.number].body.clone();
                let request = self.write(link, client_frame::Body::Publish(body));
                self.requests.insert(request, pending.number);
                self.clients[client].pending[at].request = request;
            }
        } else {
            self.clients[client].pending.clear();
            self.clients[client].sequence = 0;
        }
        for wanted in self.clients[client].wanted.clone() {
            self.subscribe(link, &wanted, true);
        }
    }

    fn acknowledged(&mut self, client: usize, request: u64, published: &wire::Published) {
        let number = self.requests[&request];
        let publish = &self.publishes[number];
        // The refusal of a publish that would have been one key too many was lost with its connection.
        let was_refused = publish.applied_to == 0 && published.duplicate && published.offset == 0 && self.may_refuse;
        assert!(was_refused || publish.applied_to > 0, "acknowledged is applied: {number}");
        let is_old = was_refused || published.duplicate && published.offset == 0;
        assert!(is_old || published.offset == publish.offset, "{number}: {published:?}, not {}", publish.offset);
        if publish.applied_to > 0 {
            let last = self.acknowledged.entry(publish.applied_to).or_default();
            *last = publish.offset.max(*last);
        }
        self.clients[client].pending.retain(|pending| pending.number != number);
    }

    /// What the client holds of the topics that match may soon be of another subscription.
    pub fn disturb(&mut self, client: usize, pattern: &Pattern) {
        for (name, held) in &mut self.clients[client].held {
            if pattern.matches(&TopicName::parse(name).expect("valid")) {
                held.may_resume = false;
            }
        }
    }

    /// Asks for a subscription, going on from where the client is if it can.
    pub fn subscribe(&mut self, link: usize, wanted: &crate::client::Wanted, may_resume: bool) {
        let client = self.links[link].client;
        let pattern = Pattern::parse(&wanted.topic).expect("valid");
        let is_alone =
            self.clients[client].wanted.iter().filter(|other| matches(&other.topic, &wanted.topic)).count() == 1;
        if !may_resume {
            self.disturb(client, &pattern);
        }
        let held = self.clients[client].held.get(&wanted.topic);
        let held = held.filter(|held| may_resume && is_alone && pattern.is_exact() && held.may_resume);
        let resume = held.map(|held| wire::Position { epoch: held.epoch, offset: held.cursor });
        let options = wanted.options.clone();
        let subscribe = wire::Subscribe {
            topic: wanted.topic.clone(),
            resume,
            window_ms: options.window_ms,
            max_hz: options.max_hz,
            min_priority: options.min_priority,
            key_prefix: Bytes::from(options.key_prefix.clone()),
            events_only_new: options.events_only_new,
        };
        self.say(|| format!("client {client} subscribes to {} {options:?} {resume:?}", wanted.topic));
        let request = self.write(link, client_frame::Body::Subscribe(subscribe));
        let topics = &self.models_of(link).topics;
        let heads = topics.iter().map(|(id, topic)| (*id, (topic.head(), topic.evicted_to))).collect();
        let acknowledged = self.acknowledged.clone();
        self.links[link].stream.asked.push(Asked {
            request,
            is_answered: false,
            pattern,
            options,
            resume,
            acknowledged,
            heads,
        });
    }

    /// Publishes on a link; remembered until it is acknowledged.
    pub fn publish(&mut self, link: usize, body: wire::Publish) {
        let client: &mut Client = &mut self.clients[self.links[link].client];
        let number = self.publishes.len();
        let request = self.next_request;
        if body.sequence > 0 {
            client.pending.push_back(crate::client::Pending { number, request });
        }
        self.requests.insert(request, number);
        self.publishes.push(crate::world::Publish { body: body.clone(), applied_to: 0, offset: 0, was_refused: false });
        self.say(|| format!("publish {number} on link {link}: {} records to {}", body.records.len(), body.topic));
        self.write(link, client_frame::Body::Publish(body));
    }
}

/// Whether a pattern matches a name, or is another pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = Pattern::parse(pattern).expect("valid");
    TopicName::parse(name).is_ok_and(|name| pattern.matches(&name))
}
