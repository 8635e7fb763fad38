//! One topic's turn on one connection: which patch it gets, and where that leaves its cursor.

use std::time::Duration;

use crate::clock::Moment;
use crate::fanout::{Announcement, Place, SubscriptionOptions};
use crate::ids::Offset;
use crate::limits::{FILTERED_PATCH_INTERVAL, PATCH_BYTES};
use crate::protocol::envelope;
use crate::protocol::wire::{self, server_frame::Body};
use crate::shard::core::Core;
use crate::shard::outbox::TurnPatch;
use crate::topic::{Ask, Cursor, PressureWindows, TopicIndex};

/// What came of giving one topic its turn on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The client is at the head.
    Head,
    /// Another chunk must follow.
    More,
    /// The connection can take nothing.
    NoRoom,
    /// Not before this moment.
    Wait(Moment),
}

impl Core {
    /// Gives one topic its turn on a connection; a patch of its own has at most `limit` bytes, or one record.
    pub(super) fn chunk(&mut self, index: u32, position: u32, limit: usize) -> Chunk {
        if self.at(index).outlet.is_blocked {
            return Chunk::NoRoom;
        }
        let (now, wall) = (self.now, self.wall);
        self.say_announcements(index, position);
        let not_before = self.at(index).subscribers[position as usize].not_before();
        if not_before > now {
            return Chunk::Wait(not_before);
        }
        let room = self.room(index);
        if room == 0 {
            return Chunk::NoRoom;
        }
        let topic = self.at(index).subscribers[position as usize].topic;
        let mut cursor = self.cursor(index, position);
        if !self.topics.topic(topic).log.is_valid(&cursor) {
            self.counters.restarts += 1;
            cursor = self.topics.topic(topic).log.start(None).0;
            let serving = self.at(index).subscribers[position as usize].subscription;
            let matching = self.topics_matching(index, serving);
            let announcement = Announcement { request: 0, is_resumed: false, matching };
            self.at(index).subscribers[position as usize].extra().announcements.push(announcement);
            self.say_announcements(index, position);
        }
        let options = self.options(index, position);
        let is_pressed = self.at(index).is_pressed;
        let patch = match self.shareable(topic, &cursor, options.as_deref(), is_pressed) {
            Some(patch) if self.admits(index, self.outbox.patches[patch as usize].patch.payload_len) => patch,
            _ => {
                let class = self.topics.topic(topic).class;
                let settings = &self.settings.classes[class.0 as usize];
                let pressure = is_pressed
                    .then_some(PressureWindows { low: settings.pressure_low, normal: settings.pressure_normal });
                let ask = Ask {
                    now,
                    wall,
                    room: room.min(limit),
                    pressure,
                    window: options.as_ref().and_then(|options| options.window),
                    filter: options.as_ref().and_then(|options| options.filter.as_ref()),
                    only_new_events: options.as_ref().is_some_and(|options| options.only_new_events),
                };
                self.encoded.push(topic);
                let topic = self.topics.topic_mut(topic);
                let patch = topic.log.patch(topic.id, &cursor, &ask);
                self.counters.own_patches += 1;
                self.outbox.keep(TurnPatch { patch, class, before: cursor, takers: 0 })
            }
        };
        if let Some(until) = self.empty_too_soon(index, position, patch, options.as_deref()) {
            return Chunk::Wait(until);
        }
        let send = self.entry(index);
        self.outbox.push_patch(send, position, patch);
        self.advance(index, position, patch, options.as_deref())
    }

    fn options(&mut self, index: u32, position: u32) -> Option<Box<SubscriptionOptions>> {
        let connection = self.at(index);
        let serving = connection.subscribers[position as usize].subscription;
        connection.subscriptions[serving as usize].as_ref()?.options.clone()
    }

    /// Puts the `Subscribed` frames that are due before a patch.
    fn say_announcements(&mut self, index: u32, position: u32) {
        let subscriber = &mut self.at(index).subscribers[position as usize];
        let topic = subscriber.topic;
        let Some(extra) = subscriber.extra.as_deref_mut() else { return };
        for announcement in std::mem::take(&mut extra.announcements) {
            let topic = self.topics.topic(topic);
            let subscribed = wire::Subscribed {
                topic_id: topic.id.0,
                topic: topic.name.as_str().to_owned(),
                epoch: topic.epoch.0,
                head: topic.log.head().0,
                resumed: announcement.is_resumed,
                matching: announcement.matching,
            };
            let bytes = envelope::encode(announcement.request, Body::Subscribed(subscribed));
            let send = self.entry(index);
            self.outbox.push_announcement(send, position, bytes, announcement);
        }
    }

    /// The turn's patch from `cursor` that others may have too, if this subscriber may take it.
    fn shareable(
        &mut self,
        topic: TopicIndex,
        cursor: &Cursor,
        options: Option<&SubscriptionOptions>,
        is_pressed: bool,
    ) -> Option<u32> {
        if is_pressed || cursor.is_catching_up() || options.is_some_and(|options| options.filter.is_some()) {
            return None;
        }
        let patch = self.shared(topic, cursor.offset);
        let oldest = self.outbox.patches[patch as usize].patch.oldest_event;
        let window = options.and_then(|options| options.window).unwrap_or(Duration::MAX);
        (oldest == Moment::NEVER || self.now.since(oldest) < window).then_some(patch)
    }

    /// The patch from `from` to the head, made once a turn.
    pub(in crate::shard) fn shared(&mut self, topic: TopicIndex, from: Offset) -> u32 {
        let turn = self.turn;
        if let Some(patch) = self.channels[topic.at()].frame(from, turn) {
            return patch;
        }
        let ask = Ask {
            now: self.now,
            wall: self.wall,
            room: PATCH_BYTES,
            pressure: None,
            window: None,
            filter: None,
            only_new_events: false,
        };
        let cursor = Cursor::at(from);
        let forwarded = self.forwarded(topic, from);
        let made = self.topics.topic_mut(topic);
        let class = made.class;
        let patch = match forwarded {
            Some(patch) => {
                self.counters.forwarded += 1;
                patch
            }
            None => {
                self.encoded.push(topic);
                self.counters.shared_patches += 1;
                made.log.patch(made.id, &cursor, &ask)
            }
        };
        let patch = self.outbox.keep(TurnPatch { patch, class, before: cursor, takers: 0 });
        self.channels[topic.at()].remember(from, patch, turn);
        patch
    }

    /// A subscription with a filter is moved on by an empty patch only once a second: until when it waits.
    fn empty_too_soon(
        &mut self,
        index: u32,
        position: u32,
        patch: u32,
        options: Option<&SubscriptionOptions>,
    ) -> Option<Moment> {
        options?.filter.as_ref()?;
        let made = &self.outbox.patches[patch as usize].patch;
        if made.counts.records > 0 || made.more || made.reset {
            return None;
        }
        let subscriber = &self.at(index).subscribers[position as usize];
        let extra = subscriber.extra.as_ref()?;
        let until = extra.filtered_at + FILTERED_PATCH_INTERVAL;
        (!extra.owes_patch && until > self.now).then_some(until)
    }

    /// Moves a subscriber's cursor behind a patch that was queued for it.
    fn advance(&mut self, index: u32, position: u32, patch: u32, options: Option<&SubscriptionOptions>) -> Chunk {
        let now = self.now;
        let made = &self.outbox.patches[patch as usize].patch;
        let (next, from, to, has_more) = (made.next.clone(), made.from, made.to, made.more);
        let payload_len = made.payload_len;
        self.spend_resent(index, position, from..to, has_more, payload_len);
        let connection = self.at(index);
        let chunks = connection.chunks;
        let subscriber = &mut connection.subscribers[position as usize];
        subscriber.served = chunks;
        if let Some(extra) = subscriber.extra.as_deref_mut() {
            extra.owes_patch = false;
            extra.not_before = Moment::default();
        }
        if let Some(options) = options {
            if let Some(interval) = options.interval {
                subscriber.extra().not_before = now + interval;
            }
            if options.filter.is_some() {
                // Only patches that say nothing are held to this: see `empty_too_soon`.
                subscriber.extra().filtered_at = now;
            }
        }
        subscriber.tidy();
        if has_more {
            self.move_behind(index, position, next);
            return Chunk::More;
        }
        let (topic, place) = (subscriber.topic, subscriber.place);
        match place {
            Place::Ready(at) => self.channels[topic.at()].ready[at as usize].cursor = to,
            Place::Behind(_) => {
                self.unlist(topic, place);
                self.list_ready(index, position, to);
            }
        }
        Chunk::Head
    }
}
