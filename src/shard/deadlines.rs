//! What happens because time passed.

use std::time::Duration;

use crate::clock::Moment;
use crate::kernel::TcpInfo;
use crate::protocol::close::CloseCode;
use crate::protocol::frame::{Opcode, frame};
use crate::protocol::http::Refusal;
use crate::protocol::websocket::Violation;
use crate::protocol::wire::{self, Code, server_frame::Body};
use crate::session::{Beat, Verdict};
use crate::shard::connection::Stage;
use crate::shard::core::{Core, Order, Probe, Timer};
use crate::shard::message::ShardMessage;
use crate::topic::TopicIndex;

/// A marker that is not answered in so long is looked after, if frames come otherwise.
pub(super) const MARKER_OVERDUE: Duration = Duration::from_secs(10);
/// The progress of a connection that answers no marker is looked at so often while its window is full.
const UNMARKED_LOOK: Duration = Duration::from_millis(100);
/// Old events are looked for so often where nothing else happens.
const RETENTION_LOOK: Duration = Duration::from_secs(1);
/// Forgotten sequences are looked for so often.
const SEQUENCES_LOOK: Duration = Duration::from_secs(30);

impl Core {
    /// Does what is due by now.
    pub(super) fn expire(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.expire(self.now, &mut fired);
        for timer in fired.drain(..) {
            match timer {
                Timer::Connection(socket) => {
                    if self.connection(socket).is_some() {
                        self.connection_timer(socket.index);
                    }
                }
                Timer::Topic(topic) => self.topic_timer(topic),
                Timer::Sequences => {
                    self.sequences.expire(self.now);
                    self.wheel.insert(self.now + SEQUENCES_LOOK, Timer::Sequences);
                }
                Timer::Questions => self.question_timer(),
                Timer::Accept => self.orders.push(Order::ResumeAccept),
                Timer::Drain => self.drop_all(),
            }
        }
        self.fired = fired;
    }

    fn connection_timer(&mut self, index: u32) {
        let now = self.now;
        if !self.at(index).alarm.fired(now) {
            return;
        }
        let is_over = now >= self.at(index).deadline;
        match self.at(index).stage {
            Stage::Gone => return,
            Stage::Head(_) if is_over => {
                self.counters.limit_hits.head_time += 1;
                self.at(index).outlet.answer(&Refusal::Timeout.response());
                return self.begin_closing(index);
            }
            Stage::Closing if is_over => return self.drop_dead(index),
            Stage::Open => self.open_timer(index),
            Stage::Head(_) | Stage::Closing => {}
        }
        self.rearm(index);
    }

    fn open_timer(&mut self, index: u32) {
        let now = self.now;
        if now >= self.at(index).deadline {
            self.counters.limit_hits.hello_time += 1;
            let code = CloseCode::HELLO_TIMEOUT;
            return self.fail(index, 0, code, Code::HeartbeatTimeout, "Hello did not come in time");
        }
        let connection = self.at(index);
        if connection.is_paused() {
            // While we do not read, nothing is held against the peer.
            if let Some(overdue) = connection.receiver.deadline().filter(|deadline| *deadline <= now) {
                connection.receiver.extend_deadline(now.since(overdue) + Duration::from_secs(1));
            }
        } else if connection.receiver.deadline().is_some_and(|deadline| deadline < now) {
            return self.violated(index, Violation::TIME);
        }
        self.heartbeat(index);
        self.idle(index);
        self.wake(index);
        self.unmarked(index);
    }

    fn heartbeat(&mut self, index: u32) {
        let (now, answer) = (self.now, self.settings.limits.heartbeat_answer);
        let interval = self.settings.limits.heartbeat_interval;
        let connection = self.at(index);
        if !connection.is_open() {
            return;
        }
        // Whoever does not read its answers is stalled by its own doing, and judged as one that reads nothing else.
        if connection.is_paused() && !connection.is_paused_by_answers {
            if connection.heartbeat.deadline() <= now {
                connection.heartbeat.suspend(now, interval);
            }
            return;
        }
        match connection.heartbeat.beat(now, answer) {
            Beat::Nothing => {}
            Beat::Ping => {
                // Behind a frame that the socket does not take a ping would only queue up; silence is judged all the same.
                if !connection.outlet.is_blocked {
                    connection.pings = connection.pings.wrapping_add(1);
                    let ping = frame(Opcode::Ping, &connection.pings.to_be_bytes());
                    self.answer_frame(index, &ping);
                }
            }
            Beat::Probe => {
                let socket = connection.socket;
                self.orders.push(Order::Probe(socket, Probe::Liveness));
            }
        }
    }

    /// The heartbeat was not answered: is the peer's TCP alive?
    pub(super) fn judge(&mut self, index: u32, info: TcpInfo) {
        let is_acknowledging = info.retransmits == 0 && info.probes == 0;
        let (now, timeout) = (self.now, self.settings.limits.stall_timeout);
        let connection = self.at(index);
        if !connection.is_open() || now < connection.heartbeat.deadline() {
            // Asked for twice in one turn, by two entries of the wheel: the first look has decided.
            return;
        }
        match connection.heartbeat.probed(is_acknowledging, now, timeout) {
            Verdict::Keep => self.rearm(index),
            Verdict::Dead => {
                self.counters.limit_hits.heartbeat += 1;
                self.drop_dead(index);
            }
            Verdict::StalledTooLong => {
                self.counters.limit_hits.stall_timeout += 1;
                let reason = "no ping was answered for too long";
                self.send_away(index, CloseCode::HEARTBEAT_TIMEOUT, Code::HeartbeatTimeout, true, reason);
            }
        }
    }

    /// A session without subscriptions that says nothing ends.
    fn idle(&mut self, index: u32) {
        let (now, timeout) = (self.now, self.settings.limits.idle_timeout);
        let connection = self.at(index);
        let is_idle = connection.session.is_some()
            && connection.is_open()
            && connection.subscriptions.iter().flatten().next().is_none()
            && !connection.is_paused()
            && now.since(connection.spoke_at) >= timeout;
        if is_idle {
            self.counters.limit_hits.idle_timeout += 1;
            // It may come back, since a publisher may have something to say later.
            let reason = "no subscriptions, and nothing said for too long";
            self.send_away(index, CloseCode::NORMAL, Code::Ok, true, reason);
        }
    }

    /// Subscribers that waited for time alone are served; a publisher over its rate is read from again.
    fn wake(&mut self, index: u32) {
        let now = self.now;
        let connection = self.at(index);
        if connection.wake_at > now || !connection.is_open() {
            return;
        }
        connection.wake_at = Moment::NEVER;
        self.make_due(index);
        let connection = self.at(index);
        if std::mem::take(&mut connection.is_paused_by_rate) {
            let socket = connection.socket;
            self.resumable.push(socket);
        }
    }

    /// A peer that sends frames but answers no marker (proxies strip pongs) is confirmed from what its TCP acknowledged.
    fn unmarked(&mut self, index: u32) {
        let now = self.now;
        let connection = self.at(index);
        if !connection.is_open() {
            return;
        }
        if connection.outlet.window.has_credit() {
            if connection.outlet.window.feed(now) {
                self.make_due(index);
            }
            return;
        }
        let is_overdue =
            connection.outlet.window.marked_at().is_some_and(|marked_at| now.since(marked_at) >= MARKER_OVERDUE);
        if is_overdue && connection.heard_since_mark && !connection.has_ponged {
            connection.is_unmarked = true;
        }
        if connection.is_unmarked && connection.outlet.window.in_flight() > 0 {
            let socket = connection.socket;
            self.orders.push(Order::Probe(socket, Probe::Progress));
        }
    }

    pub(super) fn confirm_by_transport(&mut self, index: u32, info: TcpInfo) {
        let (now, target) = (self.now, self.settings.limits.freshness_target);
        let connection = self.at(index);
        let unacknowledged = connection.bytes_taken.saturating_sub(info.bytes_acked);
        connection.outlet.window.confirm_transport(unacknowledged, now, target);
        self.make_due(index);
        self.rearm(index);
    }

    /// Has the wheel look at the connection when the next of its deadlines comes.
    fn rearm(&mut self, index: u32) {
        let limits = &self.settings.limits;
        let (now, idle_timeout) = (self.now, limits.idle_timeout);
        let connection = self.at(index);
        let mut next = connection.deadline;
        if connection.is_open() {
            next = next.min(connection.heartbeat.deadline()).min(connection.wake_at);
            if let Some(deadline) = connection.receiver.deadline() {
                next = next.min(deadline + Duration::from_nanos(1));
            }
            if let Some(marked_at) = connection.outlet.window.marked_at() {
                next = next.min((marked_at + MARKER_OVERDUE).max(now + Duration::from_secs(1)));
            }
            if let Some(starves_at) = connection.outlet.window.starves_at() {
                next = next.min(starves_at);
            }
            if connection.is_unmarked && connection.outlet.window.in_flight() > 0 {
                next = next.min(now + UNMARKED_LOOK);
            }
            // Silence while we do not read is not its own: how long it lasted is seen at the next heartbeat.
            let may_idle = connection.session.is_some() && !connection.is_paused();
            if may_idle && connection.subscriptions.iter().flatten().next().is_none() {
                next = next.min((connection.spoke_at + idle_timeout).max(now + Duration::from_millis(1)));
            }
        }
        if next < Moment::NEVER {
            self.arm(index, next.max(now + Duration::from_micros(100)));
        }
    }

    fn topic_timer(&mut self, topic: TopicIndex) {
        if self.channels.get(topic.at()).is_none() || !self.topics.contains(topic) {
            return;
        }
        let now = self.now;
        if !self.channels[topic.at()].alarm.fired(now) {
            return;
        }
        let class = self.topics.topic(topic).class;
        let deleted = self.topics.topic_mut(topic).log.expire_keys(now);
        if deleted > 0 {
            self.counters.classes[class.0 as usize].published += deleted;
            self.note_appended(topic, 0, deleted, now);
            self.appended(topic);
        }
        if !self.channels[topic.at()].is_dirty {
            self.retain(topic);
            // Where nothing is published, what was let go is told now.
            self.offer_to_followers(topic);
        }
        if !self.is_overdue(topic) {
            self.raise_lowest(topic);
            self.arm_topic_deadlines(topic);
        } else if self.topics.topic(topic).is_at_home() {
            let (id, name) = (self.topics.topic(topic).id, self.topics.topic(topic).name.clone());
            self.matches_no_longer(&name);
            self.forget(topic);
            self.tell_others(|| ShardMessage::Forgotten(id));
        } else {
            self.give_up(topic);
        }
    }

    /// Has the wheel look at the topic when a key or an event of it runs out, or it has been idle for too long.
    pub(super) fn arm_topic_deadlines(&mut self, topic: TopicIndex) {
        let log = &self.topics.topic(topic).log;
        let (expiry, retention, is_empty) = (log.next_key_expiry(), log.next_retention(), log.is_empty());
        // Events may outlive their time a little: they are not sent any more, and a look costs.
        let next = expiry.min(retention.max(self.now + RETENTION_LOOK));
        if next < Moment::NEVER {
            self.arm_topic(topic, next);
        }
        if is_empty || self.channels[topic.at()].idle_since.is_some() {
            self.look_after_idle_topic(topic);
        }
    }

    /// The lowest cursor behind may have risen since it was last looked for.
    pub(super) fn raise_lowest(&mut self, topic: TopicIndex) {
        let lowest = self.channels[topic.at()]
            .behind
            .iter()
            .map(|entry| {
                let connection = self.connections[entry.connection as usize].as_deref();
                connection.map_or(crate::ids::Offset::ZERO, |connection| {
                    connection.subscribers[entry.subscriber as usize].cursor.needs()
                })
            })
            .min();
        if let Some(lowest) = lowest {
            self.channels[topic.at()].lowest_behind = lowest;
        }
    }

    /// A topic that is empty and has no exact subscriber is forgotten after its class's linger, a replica without subscribers is
    /// given up. Both only by the topic's timer: whoever calls this goes on with the topic.
    pub(super) fn look_after_idle_topic(&mut self, topic: TopicIndex) {
        let (is_idle, linger) = (self.is_idle(topic), self.linger(topic));
        let channel = &mut self.channels[topic.at()];
        if is_idle {
            let since = *channel.idle_since.get_or_insert(self.now);
            self.arm_topic(topic, since + linger);
        } else {
            channel.idle_since = None;
        }
    }

    fn is_idle(&self, topic: TopicIndex) -> bool {
        let (made, channel) = (self.topics.topic(topic), &self.channels[topic.at()]);
        if made.is_at_home() { made.log.is_empty() && !channel.is_wanted() } else { channel.subscribers() == 0 }
    }

    fn linger(&self, topic: TopicIndex) -> Duration {
        self.settings.classes[self.topics.topic(topic).class.0 as usize].linger
    }

    /// Whether a topic that nobody needs has been so for its linger.
    fn is_overdue(&self, topic: TopicIndex) -> bool {
        let since = self.channels[topic.at()].idle_since.filter(|_| self.is_idle(topic));
        since.is_some_and(|since| self.now.since(since) >= self.linger(topic))
    }

    /// The log lets go what it may, now that everyone at the head has had its chance.
    pub(super) fn retain(&mut self, topic: TopicIndex) {
        let (now, lowest) = (self.now, self.lowest_behind(topic));
        self.topics.topic_mut(topic).log.retain(now, lowest);
    }

    /// The topic is no more: its subscribers hear so, and their subscriptions stand.
    pub(super) fn forget(&mut self, topic: TopicIndex) {
        let name = self.topics.topic(topic).name.clone();
        while let Some((index, position)) = self.channels[topic.at()].any_subscriber() {
            let subscriber = &mut self.at(index).subscribers[position as usize];
            let (mut waiting, mut unsaid) = (None, Vec::new());
            if let Some(extra) = subscriber.extra.as_deref_mut() {
                (waiting, unsaid) = (extra.waiting.take(), std::mem::take(&mut extra.announcements));
            }
            self.remove_subscriber(index, position);
            // No request is without an answer.
            for request in unsaid.into_iter().map(|announcement| announcement.request).filter(|request| *request > 0) {
                let subscribed = wire::Subscribed { topic: name.as_str().to_owned(), ..wire::Subscribed::default() };
                self.answer(index, request, Body::Subscribed(subscribed));
            }
            if let Some(waiting) = waiting {
                // It has not heard of the topic yet.
                let subscribed = wire::Subscribed { topic: name.as_str().to_owned(), ..wire::Subscribed::default() };
                if waiting.request > 0 {
                    self.answer(index, waiting.request, Body::Subscribed(subscribed));
                }
                continue;
            }
            let unsubscribed = wire::Unsubscribed { topic: name.as_str().to_owned(), reason: Code::NotFound.into() };
            self.answer(index, 0, Body::Unsubscribed(unsubscribed));
        }
        self.drop_topic(topic);
    }
}
