//! Subscriptions, and the topics that they match: now, and later.

use std::time::Duration;

use crate::fanout::{Announcement, Behind, Place, Ready, Subscriber, Subscription, SubscriptionOptions, Waiting};
use crate::ids::Offset;
use crate::protocol::wire::{self, Code, server_frame::Body};
use crate::shard::core::{Core, Interest};
use crate::shard::message::{Match, Operation};
use crate::topic::{Cursor, Pattern, TopicIndex, TopicName};

/// What came of letting a subscription serve a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attached {
    /// The connection's subscriber at this index begins.
    Anew(u32),
    /// An earlier subscription serves the topic, by the subscriber at this index.
    Served(u32),
    /// The connection has as many topics as it may.
    LeftOut,
}

impl Core {
    /// A `Subscribe`. The homes of the topics that it may match are asked first, so that it finds what was acknowledged before.
    pub(super) fn subscribe(&mut self, index: u32, request: u64, subscribe: wire::Subscribe) {
        let operation = Operation::Subscribe { request, subscribe, is_unsure: false };
        let Operation::Subscribe { subscribe, .. } = &operation else { unreachable!("it was just made") };
        let ready = match Pattern::parse(&subscribe.topic) {
            Ok(pattern) => self.ask_homes(index, &pattern, operation),
            Err(_) => Some(operation),
        };
        if let Some(operation) = ready {
            self.perform(index, operation);
        }
    }

    /// A `Subscribe`, with every topic known; or, if it `is_unsure`, with those that are: the others come later, as new ones do.
    pub(super) fn subscribe_now(&mut self, index: u32, request: u64, subscribe: &wire::Subscribe, is_unsure: bool) {
        let pattern = match Pattern::parse(&subscribe.topic) {
            Ok(pattern) => pattern,
            Err(error) => return self.answer_error(index, request, Code::Invalid, &error.to_string(), Duration::ZERO),
        };
        let options = match SubscriptionOptions::parse(subscribe, self.settings.limits.key_bytes) {
            Ok(options) => options,
            Err(message) => {
                let is_too_long = subscribe.key_prefix.len() > self.settings.limits.key_bytes;
                self.counters.limit_hits.key_bytes += u64::from(is_too_long);
                return self.answer_error(index, request, Code::Invalid, &message, Duration::ZERO);
            }
        };
        if subscribe.resume.is_some() && !pattern.is_exact() {
            let message = "only exact names can be resumed: a pattern has no position";
            return self.answer_error(index, request, Code::Invalid, message, Duration::ZERO);
        }
        let existing = self.subscription_of(index, &pattern);
        if !self.admits_subscribe(index, request, existing) {
            return;
        }
        let at = match existing {
            Some(at) => {
                let subscription = self.at(index).subscriptions[at as usize].as_mut().expect("it was just found");
                subscription.options = options;
                at
            }
            None => {
                let limit = self.settings.limits.subscriptions;
                if self.at(index).subscriptions.iter().flatten().count() >= limit {
                    self.counters.limit_hits.subscriptions += 1;
                    let message = format!("at most {limit} subscriptions on a connection");
                    return self.answer_error(index, request, Code::LimitReached, &message, Duration::ZERO);
                }
                // Most are to a topic that exists, whose name is there already.
                let shared = self.name_of_topic(pattern.as_str()).filter(|_| pattern.is_exact());
                let pattern = shared.as_ref().map_or_else(|| pattern.clone(), Pattern::from);
                self.add_subscription(index, pattern, options)
            }
        };
        let matching = self.matching(&pattern);
        let count = u32::try_from(matching.len()).expect("topics have ids of 32 bits");
        self.at(index).subscriptions[at as usize].as_mut().expect("it was just made").matching = count;
        if matching.is_empty() {
            let subscribed = wire::Subscribed { topic: subscribe.topic.clone(), ..wire::Subscribed::default() };
            return self.answer(index, request, Body::Subscribed(subscribed));
        }
        let resume = subscribe.resume.as_ref();
        let (mut is_answered, told_before) = (false, self.at(index).told_matched_limit);
        for found in matching {
            let found = match found {
                Match::Here(topic) if is_unsure && !self.topics.topic(topic).is_at_home() => Match::Lagging(topic),
                known => known,
            };
            let attached = self.attach(index, at, found, resume, request);
            self.count_resent(index, attached);
            is_answered |= attached != Attached::LeftOut;
        }
        if !is_answered && told_before {
            // Every topic was left out, which is said once; but a request is never without an answer.
            self.say_matched_limit(index, request);
        }
    }

    pub(super) fn unsubscribe(&mut self, index: u32, request: u64, unsubscribe: &wire::Unsubscribe) {
        let found = Pattern::parse(&unsubscribe.topic).ok().and_then(|pattern| self.subscription_of(index, &pattern));
        let Some(at) = found else {
            let message = "there is no subscription of that name";
            return self.answer_error(index, request, Code::NotFound, message, Duration::ZERO);
        };
        self.at(index).subscribes_again();
        let subscription = self.at(index).subscriptions[at as usize].take().expect("it was just found");
        let interest = Interest { connection: self.at(index).socket, subscription: at };
        self.interests.remove(&subscription.pattern, interest);
        let mut position = 0;
        while position < self.at(index).subscribers.len() {
            let subscriber = &self.at(index).subscribers[position];
            if subscriber.subscription != at {
                position += 1;
                continue;
            }
            let topic = subscriber.topic;
            self.detach(index, position as u32, subscription.pattern.is_exact());
            // Another subscription that matches serves the topic from now on, anew and with its own options.
            let name = self.topics.topic(topic).name.clone();
            if let Some(next) = self.first_matching(index, &name) {
                let attached = self.attach(index, next, Match::Here(topic), None, 0);
                self.count_resent(index, attached);
            }
        }
        let unsubscribed = wire::Unsubscribed { topic: unsubscribe.topic.clone(), reason: Code::Ok.into() };
        self.answer(index, request, Body::Unsubscribed(unsubscribed));
    }

    /// A topic came into being: everyone whose subscription matches gets it.
    pub(super) fn topic_created(&mut self, topic: TopicIndex, name: &TopicName) {
        self.make_channel(topic);
        self.attach_interested(name, Match::Here(topic));
        self.look_after_idle_topic(topic);
    }

    /// A topic has come to match subscriptions of its name.
    pub(super) fn attach_interested(&mut self, name: &TopicName, found: Match) {
        for Interest { connection, subscription } in self.interested(name) {
            self.interested_subscription(connection.index, subscription).matching += 1;
            self.attach(connection.index, subscription, found, None, 0);
        }
    }

    /// A topic of that name, here or elsewhere, is no more.
    pub(super) fn matches_no_longer(&mut self, name: &TopicName) {
        for Interest { connection, subscription } in self.interested(name) {
            self.interested_subscription(connection.index, subscription).matching -= 1;
        }
    }

    /// Whose subscriptions match a name.
    fn interested(&self, name: &TopicName) -> Vec<Interest> {
        let mut interested = Vec::new();
        self.interests.matches(name, &mut interested);
        interested
    }

    fn interested_subscription(&mut self, index: u32, subscription: u32) -> &mut Subscription {
        self.at(index).subscriptions[subscription as usize].as_mut().expect("one that is gone has no interest")
    }

    /// Lets a subscription serve a topic, unless an earlier one does: then the client only gets its answer.
    pub(super) fn attach(
        &mut self,
        index: u32,
        subscription: u32,
        found: Match,
        resume: Option<&wire::Position>,
        request: u64,
    ) -> Attached {
        let matching = self.topics_matching(index, subscription);
        let here = match found {
            Match::Here(topic) | Match::Lagging(topic) => Some(topic),
            Match::Elsewhere(id) => self.topics.find_id(id),
        };
        let mut subscribers = self.at(index).subscribers.iter();
        let existing = subscribers.position(|subscriber| Some(subscriber.topic) == here);
        if let Some(position) = existing {
            let serving = self.at(index).subscribers[position].subscription;
            if serving == subscription || self.serial(index, subscription) < self.serial(index, serving) {
                let was_exact = self.is_exact(index, serving);
                self.detach(index, position as u32, was_exact);
            } else {
                self.announce(index, position, Announcement { request, is_resumed: true, matching });
                return Attached::Served(position as u32);
            }
        } else if self.at(index).subscribers.len() >= self.settings.limits.matched_topics {
            self.counters.limit_hits.matched_topics += 1;
            if !self.at(index).told_matched_limit {
                self.at(index).told_matched_limit = true;
                self.say_matched_limit(index, request);
            }
            return Attached::LeftOut;
        }
        let topic = self.bring_here(found);
        let epoch = self.topics.topic(topic).epoch;
        let resume = resume.filter(|position| position.epoch == epoch.0).map(|position| Offset(position.offset));
        let connection = self.at(index);
        let at = connection.subscribers.len();
        connection.subscribers.push(Subscriber {
            topic,
            subscription,
            place: Place::Behind(0),
            cursor: Cursor::at(Offset::ZERO),
            served: 0,
            extra: None,
        });
        let log = &self.topics.topic(topic).log;
        // A position that the replica has not reached yet is no reason to start anew: its home may well know it.
        let is_beyond = matches!(found, Match::Lagging(_)) && resume.is_some_and(|resume| resume > log.head());
        if log.is_current() && !is_beyond {
            let (cursor, is_resumed) = log.start(resume);
            self.list_behind(index, at as u32, cursor);
            self.announce(index, at, Announcement { request, is_resumed, matching });
        } else {
            self.list_behind(index, at as u32, Cursor::at(Offset::ZERO));
            self.at(index).subscribers[at].extra().waiting = Some(Waiting { resume, request, matching });
        }
        if self.is_exact(index, subscription) {
            self.channels[topic.at()].exact_subscribers += 1;
            if self.channels[topic.at()].exact_subscribers == 1 {
                self.exact_subscribers_changed(topic);
            }
        }
        // Somebody is here: the topic's idle time is over.
        self.look_after_idle_topic(topic);
        Attached::Anew(at as u32)
    }

    fn say_matched_limit(&mut self, index: u32, request: u64) {
        let limit = self.settings.limits.matched_topics;
        let message = format!("subscriptions match more than {limit} topics: the others are left out");
        self.answer_error(index, request, Code::LimitReached, &message, Duration::ZERO);
    }

    /// A `Subscribed` is due, and a patch after it.
    fn announce(&mut self, index: u32, position: usize, announcement: Announcement) {
        let extra = self.at(index).subscribers[position].extra();
        extra.announcements.push(announcement);
        extra.owes_patch = true;
        self.make_due(index);
    }

    /// Takes a subscriber out of its topic's lists and out of its connection. Returns its topic.
    pub(super) fn remove_subscriber(&mut self, index: u32, position: u32) -> TopicIndex {
        let subscriber = &self.at(index).subscribers[position as usize];
        let (topic, place) = (subscriber.topic, subscriber.place);
        self.unlist(topic, place);
        self.at(index).subscribers.swap_remove(position as usize);
        self.tell_moved(index, position);
        topic
    }

    /// A subscriber goes; its topic may be idle then.
    pub(super) fn detach(&mut self, index: u32, position: u32, was_exact: bool) {
        let topic = self.remove_subscriber(index, position);
        if was_exact {
            self.channels[topic.at()].exact_subscribers -= 1;
            if self.channels[topic.at()].exact_subscribers == 0 {
                self.exact_subscribers_changed(topic);
            }
        }
        self.look_after_idle_topic(topic);
    }

    /// Tells its topic the new position of the subscriber that took a removed one's.
    fn tell_moved(&mut self, index: u32, position: u32) {
        let connection = self.at(index);
        let Some(moved) = connection.subscribers.get(position as usize) else { return };
        let (topic, place, subscription) = (moved.topic, moved.place, moved.subscription);
        let has_options = self.has_options(index, subscription);
        let channel = &mut self.channels[topic.at()];
        match place {
            Place::Ready(at) => {
                let entry = &mut channel.ready[at as usize];
                *entry = Ready::new(index, position, has_options, entry.cursor);
            }
            Place::Behind(at) => channel.behind[at as usize] = Behind { connection: index, subscriber: position },
        }
    }

    /// Takes a connection out of everything that names it.
    pub(super) fn detach_everything(&mut self, index: u32) {
        let connection = self.at(index);
        let socket = connection.socket;
        let subscriptions = std::mem::take(&mut connection.subscriptions);
        while !self.at(index).subscribers.is_empty() {
            let last = self.at(index).subscribers.len() - 1;
            let serving = self.at(index).subscribers[last].subscription as usize;
            let was_exact = subscriptions[serving].as_ref().is_some_and(|serving| serving.pattern.is_exact());
            self.detach(index, last as u32, was_exact);
        }
        for (at, subscription) in subscriptions.iter().enumerate() {
            if let Some(subscription) = subscription {
                let interest = Interest { connection: socket, subscription: at as u32 };
                self.interests.remove(&subscription.pattern, interest);
            }
        }
        self.end_session(index);
    }

    /// Lists a subscriber that has just been made, or was ready, as behind.
    pub(super) fn list_behind(&mut self, index: u32, position: u32, cursor: Cursor) {
        let topic = self.at(index).subscribers[position as usize].topic;
        let entry = Behind { connection: index, subscriber: position };
        let place = Place::Behind(self.channels[topic.at()].push_behind(entry, cursor.needs()));
        let subscriber = &mut self.at(index).subscribers[position as usize];
        (subscriber.place, subscriber.cursor) = (place, cursor);
    }

    /// Lists a subscriber that was behind as ready, at `offset`.
    pub(super) fn list_ready(&mut self, index: u32, position: u32, offset: Offset) {
        let (topic, subscription) = {
            let subscriber = &self.at(index).subscribers[position as usize];
            (subscriber.topic, subscriber.subscription)
        };
        let entry = Ready::new(index, position, self.has_options(index, subscription), offset);
        let place = Place::Ready(self.channels[topic.at()].push_ready(entry));
        let subscriber = &mut self.at(index).subscribers[position as usize];
        (subscriber.place, subscriber.cursor) = (place, Cursor::at(Offset::ZERO));
    }

    /// Takes an entry out of its list, and tells the one that moved into its place.
    pub(super) fn unlist(&mut self, topic: TopicIndex, place: Place) {
        let channel = &mut self.channels[topic.at()];
        let moved = match place {
            Place::Ready(at) => channel.remove_ready(at).map(|entry| (entry.connection, entry.subscriber())),
            Place::Behind(at) => channel.remove_behind(at).map(|entry| (entry.connection, entry.subscriber)),
        };
        if let Some((connection, subscriber)) = moved {
            self.at(connection).subscribers[subscriber as usize].place = place;
        }
    }

    /// Whether the subscription that serves has options.
    pub(super) fn has_options(&mut self, index: u32, subscription: u32) -> bool {
        self.subscription(index, subscription).is_some_and(|subscription| subscription.options.is_some())
    }

    fn is_exact(&mut self, index: u32, subscription: u32) -> bool {
        self.subscription(index, subscription).is_some_and(|subscription| subscription.pattern.is_exact())
    }

    fn serial(&mut self, index: u32, subscription: u32) -> u32 {
        self.subscription(index, subscription).map_or(u32::MAX, |subscription| subscription.serial)
    }

    fn subscription(&mut self, index: u32, subscription: u32) -> Option<&Subscription> {
        self.at(index).subscriptions.get(subscription as usize)?.as_ref()
    }

    /// How many topics match a subscription now.
    pub(super) fn topics_matching(&mut self, index: u32, subscription: u32) -> u32 {
        self.subscription(index, subscription).map_or(0, |subscription| subscription.matching)
    }

    fn subscription_of(&mut self, index: u32, pattern: &Pattern) -> Option<u32> {
        let subscriptions = &self.at(index).subscriptions;
        let at = subscriptions.iter().position(|held| held.as_ref().is_some_and(|held| held.pattern == *pattern))?;
        Some(at as u32)
    }

    fn add_subscription(&mut self, index: u32, pattern: Pattern, options: Option<Box<SubscriptionOptions>>) -> u32 {
        let connection = self.at(index);
        let serial = connection.subscription_serial;
        connection.subscription_serial += 1;
        let subscription = Some(Subscription { pattern: pattern.clone(), options, serial, matching: 0 });
        let hole = connection.subscriptions.iter().position(Option::is_none);
        let at = hole.unwrap_or_else(|| {
            if connection.subscriptions.is_empty() {
                connection.subscriptions.reserve_exact(1); // most connections have one
                connection.subscribers.reserve_exact(1);
            }
            connection.subscriptions.push(None);
            connection.subscriptions.len() - 1
        });
        connection.subscriptions[at] = subscription;
        let interest = Interest { connection: connection.socket, subscription: at as u32 };
        self.interests.insert(&pattern, interest);
        at as u32
    }

    /// The topics that match now, here and elsewhere.
    fn matching(&self, pattern: &Pattern) -> Vec<Match> {
        if pattern.is_exact() {
            let here = self.topics.find(pattern.as_str()).map(Match::Here);
            return here.or_else(|| self.directory.find(pattern.as_str()).map(Match::Elsewhere)).into_iter().collect();
        }
        let here = self.topics.iter().filter(|(_, topic)| topic.is_at_home() && pattern.matches(&topic.name));
        let here = here.map(|(at, _)| Match::Here(at));
        here.chain(self.directory.matching(pattern).map(Match::Elsewhere)).collect()
    }

    /// The connection's earliest subscription that matches a topic.
    fn first_matching(&mut self, index: u32, name: &TopicName) -> Option<u32> {
        let subscriptions = self.at(index).subscriptions.iter().enumerate();
        subscriptions
            .filter_map(|(at, subscription)| Some((at as u32, subscription.as_ref()?)))
            .filter(|(_, subscription)| subscription.pattern.matches(name))
            .min_by_key(|(_, subscription)| subscription.serial)
            .map(|(at, _)| at)
    }
}
