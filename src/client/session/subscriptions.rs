//! What the client is subscribed to: said again on each connection, answered topic by topic, and followed patch by patch.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Output, Session, SubscriptionId};
use crate::client::view::Delivery;
use crate::client::wire::{self, client_frame};
use crate::client::{ClientError, SubscribeOptions, names};

/// Topics that a server may tell one connection of; one that says more is not a Tidegate server.
const TOPICS_MAX: usize = 1 << 17;

#[derive(Debug)]
pub(super) struct Subscription {
    options: SubscribeOptions,
    /// Of the newest Subscribe, and whether it was answered.
    pub(super) request: u64,
    pub(super) is_answered: bool,
    pub(super) was_ever_answered: bool,
    /// Where an exact name would go on.
    position: Option<wire::Position>,
    /// Topics that the application was told of and that were not ended.
    topics: BTreeSet<Arc<str>>,
    /// Those that the newest Subscribe has brought so far; `None` once all that matched then have come.
    announced: Option<Announced>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) subscription: SubscriptionId,
    topic: Arc<str>,
    epoch: u64,
}

/// What came since a Subscribe was said again.
#[derive(Debug, Default)]
struct Announced {
    topics: BTreeSet<Arc<str>>,
    /// How many of them answered it.
    answers: u32,
}

impl Session {
    pub(crate) fn subscribe(
        &mut self,
        id: SubscriptionId,
        options: SubscribeOptions,
        position: Option<wire::Position>,
    ) -> Result<(), ClientError> {
        names::check_pattern(&options.topic)?;
        if self.subscriptions.values().any(|other| other.options.topic == options.topic) {
            let sentence = format!("this client is subscribed to {:?} already", options.topic);
            return Err(ClientError::Invalid(sentence));
        }
        if position.is_some() && names::is_pattern(&options.topic) {
            return Err(ClientError::Invalid("a pattern cannot be resumed, only a topic's name".into()));
        }
        let subscription = Subscription {
            options,
            request: 0,
            is_answered: false,
            was_ever_answered: false,
            position,
            topics: BTreeSet::new(),
            announced: None,
        };
        self.subscriptions.insert(id, subscription);
        self.send_subscribe(id);
        Ok(())
    }

    /// Starts a subscription anew, from 0, because what it was told does not add up. Nothing if that is under way.
    pub(crate) fn restart(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let is_under_way = !subscription.is_answered && subscription.position.is_none();
        subscription.position = None;
        if !is_under_way {
            self.send_subscribe(id);
        }
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.remove(&id) else { return };
        self.routes.retain(|_, route| route.subscription != id);
        if self.is_welcomed {
            let topic = subscription.options.topic;
            self.request(client_frame::Body::Unsubscribe(wire::Unsubscribe { topic }));
        }
    }

    pub(super) fn send_subscribe(&mut self, id: SubscriptionId) {
        let request = self.next_request;
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if !self.is_welcomed {
            return; // the Welcome sends it
        }
        subscription.request = request;
        subscription.is_answered = false;
        subscription.announced = Some(Announced::default());
        let body = wire::Subscribe { resume: subscription.position, ..subscription.options.to_wire() };
        self.request(client_frame::Body::Subscribe(body));
    }

    pub(super) fn subscribed(
        &mut self,
        request: u64,
        subscribed: wire::Subscribed,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ClientError> {
        let asked = self.subscriptions.iter_mut().find(|(_, s)| request != 0 && s.request == request);
        if let Some((id, subscription)) = asked {
            subscription.is_answered = true;
            if !std::mem::replace(&mut subscription.was_ever_answered, true) {
                outputs.push(Output::Answered(*id));
            }
        }
        if subscribed.topic_id != 0 {
            if self.routes.len() >= TOPICS_MAX {
                return Err(ClientError::Protocol("it tells of more topics than it may".into()));
            }
            // A topic that several subscriptions match comes once, with the options of the first.
            let owner =
                self.subscriptions.iter_mut().find(|(_, s)| names::matches(&s.options.topic, &subscribed.topic));
            let Some((id, owner)) = owner else {
                // Unsubscribed in the meantime.
                self.strays += 1;
                return Ok(());
            };
            let topic: Arc<str> = subscribed.topic.as_str().into();
            owner.topics.insert(topic.clone());
            let wire::Subscribed { epoch, head, resumed: is_resumed, .. } = subscribed;
            self.routes.insert(subscribed.topic_id, Route { subscription: *id, topic: topic.clone(), epoch });
            outputs.push(Output::Deliver(*id, Delivery::Subscribed { topic, epoch, head, is_resumed }));
        }
        self.end_unannounced(request, &subscribed, outputs);
        if let Some((id, subscription)) = self.subscriptions.iter().find(|(_, s)| request != 0 && s.request == request)
            && subscribed.topic_id == 0
        {
            let pattern = subscription.options.topic.as_str().into();
            outputs.push(Output::Deliver(*id, Delivery::Unmatched { pattern }));
        }
        Ok(())
    }

    /// After a Subscribe was said again: topics that it did not bring are gone, once all that match have come.
    fn end_unannounced(&mut self, request: u64, subscribed: &wire::Subscribed, outputs: &mut Vec<Output>) {
        if request == 0 {
            // It came to match while the answers were still coming: it is there, though it answers nothing.
            for subscription in self.subscriptions.values_mut() {
                if let Some(announced) = &mut subscription.announced {
                    announced.topics.insert(subscribed.topic.as_str().into());
                }
            }
            return;
        }
        let Some((id, subscription)) = self.subscriptions.iter_mut().find(|(_, s)| s.request == request) else {
            return;
        };
        let Some(announced) = &mut subscription.announced else { return };
        if subscribed.topic_id != 0 {
            announced.topics.insert(subscribed.topic.as_str().into());
            announced.answers += 1;
        }
        if announced.answers >= subscribed.matching {
            let announced = subscription.announced.take().unwrap_or_default().topics;
            for topic in subscription.topics.difference(&announced) {
                let delivery = Delivery::Unsubscribed { topic: topic.clone(), reason: wire::Code::NotFound };
                outputs.push(Output::Deliver(*id, delivery));
            }
            subscription.topics.retain(|topic| announced.contains(topic));
        }
    }

    pub(super) fn unsubscribed(&mut self, unsubscribed: &wire::Unsubscribed, outputs: &mut Vec<Output>) {
        let reason = unsubscribed.reason();
        let topic: Arc<str> = unsubscribed.topic.as_str().into();
        if reason == wire::Code::Ok {
            return; // the answer to our own, which was done when it was sent
        }
        self.routes.retain(|_, route| route.topic != topic);
        let whole = self.subscriptions.iter().find(|(_, s)| *s.options.topic == *topic).map(|(id, _)| *id);
        for (id, subscription) in &mut self.subscriptions {
            if subscription.topics.remove(&topic) {
                outputs.push(Output::Deliver(*id, Delivery::Unsubscribed { topic: topic.clone(), reason }));
            }
        }
        if let Some(id) = whole
            && reason != wire::Code::NotFound
        {
            self.subscriptions.remove(&id);
            self.routes.retain(|_, route| route.subscription != id);
            let message = format!("the subscription to {topic} was ended");
            outputs.push(Output::Ended(id, ClientError::Server { code: reason, message, retry_after_ms: 0 }));
        }
    }

    pub(super) fn patch(&mut self, patch: wire::Patch, frame_bytes: usize, outputs: &mut Vec<Output>) {
        let Some(route) = self.routes.get(&patch.topic_id) else {
            // Under way when we unsubscribed: consumed by being passed over.
            self.strays += 1;
            self.consumed(frame_bytes as u64);
            return;
        };
        if let Some(subscription) = self.subscriptions.get_mut(&route.subscription)
            && !names::is_pattern(&subscription.options.topic)
            && (subscription.position.is_some() || patch.reset || patch.from == 0)
        {
            subscription.position = Some(wire::Position { epoch: route.epoch, offset: patch.to });
        }
        let delivery = Delivery::Patch { topic: route.topic.clone(), patch, frame_bytes };
        outputs.push(Output::Deliver(route.subscription, delivery));
    }
}
