//! The session against scripted frames: what it says, when, and what it says again.

use super::wire::{client_frame::Body as Said, server_frame::Body};
use super::*;
use crate::client::SubscribeOptions;

fn session() -> Session {
    Session::new("token".into(), "agent".into(), 0)
}

fn said(session: &mut Session) -> Vec<(u64, Said)> {
    let mut outputs = Vec::new();
    let frames = std::iter::from_fn(|| session.next_frame(&mut outputs)).map(|f| (f.request, f.body.expect("a body")));
    frames.collect()
}

fn receive(session: &mut Session, request: u64, body: Body) -> Vec<Output> {
    session.receive(wire::ServerFrame { request, body: Some(body) }, 100).expect("a frame that makes sense")
}

fn welcome(session: &mut Session, id: &'static [u8]) -> Vec<(u64, Said)> {
    session.connected();
    assert!(matches!(&said(session)[..], [(_, Said::Hello(_))]), "nothing is said before the Welcome");
    let welcome = wire::Welcome { session: id.into(), ..wire::Welcome::default() };
    assert!(matches!(&receive(session, 1, Body::Welcome(welcome))[..], [Output::Welcomed]));
    said(session)
}

fn subscribed(topic_id: u32, topic: &str, matching: u32) -> Body {
    Body::Subscribed(wire::Subscribed { topic_id, topic: topic.into(), epoch: 5, matching, ..Default::default() })
}

fn patch(topic_id: u32, from: u64, to: u64) -> Body {
    Body::Patch(wire::Patch { topic_id, from, to, reset: from == 0, ..Default::default() })
}

fn subscribes(said: &[(u64, Said)]) -> Vec<(u64, &str, Option<u64>)> {
    let mut all = Vec::new();
    for (request, said) in said {
        if let Said::Subscribe(subscribe) = said {
            all.push((*request, subscribe.topic.as_str(), subscribe.resume.map(|position| position.offset)));
        }
    }
    all
}

#[test]
fn subscriptions_are_said_again_in_order_and_names_with_their_position() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("a"), None).expect("a valid name");
    session.subscribe(2, SubscribeOptions::new("m/*"), None).expect("a valid pattern");
    let first = welcome(&mut session, b"s");
    let [(a, "a", None), (m, "m/*", None)] = subscribes(&first)[..] else { panic!("{first:?}") };
    assert!(matches!(
        receive(&mut session, a, subscribed(1, "a", 1))[..],
        [Output::Answered(1), Output::Deliver(1, _)]
    ));
    receive(&mut session, m, subscribed(2, "m/x", 1));
    receive(&mut session, 0, patch(1, 0, 9));
    receive(&mut session, 0, patch(2, 0, 7));
    session.disconnected();
    assert!(!session.has_frame());
    let again = welcome(&mut session, b"s");
    assert!(matches!(subscribes(&again)[..], [(_, "a", Some(9)), (_, "m/*", None)]), "{again:?}");
}

#[test]
fn a_restart_forgets_the_position_and_is_said_once() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("a"), None).expect("a valid name");
    let first = welcome(&mut session, b"s");
    receive(&mut session, subscribes(&first)[0].0, subscribed(1, "a", 1));
    receive(&mut session, 0, patch(1, 0, 9));
    session.restart(1);
    session.restart(1);
    let said_now = said(&mut session);
    assert!(matches!(subscribes(&said_now)[..], [(_, "a", None)]), "{said_now:?}");
    // The rest of the old chain does not bring the position back.
    receive(&mut session, 0, patch(1, 9, 12));
    let again = welcome(&mut session, b"s");
    assert!(matches!(subscribes(&again)[..], [(_, "a", None)]), "{again:?}");
}

#[test]
fn a_topic_of_two_subscriptions_goes_to_the_first() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("m/**"), None).expect("a valid pattern");
    session.subscribe(2, SubscribeOptions::new("m/a"), None).expect("a valid name");
    let first = welcome(&mut session, b"s");
    let [(_, _, _), (name, "m/a", _)] = subscribes(&first)[..] else { panic!("{first:?}") };
    let outputs = receive(&mut session, name, subscribed(4, "m/a", 1));
    assert!(matches!(outputs[..], [Output::Answered(2), Output::Deliver(1, _)]), "{outputs:?}");
    session.unsubscribe(1);
    assert!(receive(&mut session, 0, patch(4, 0, 1)).is_empty(), "on its way when it was unsubscribed");
    receive(&mut session, 0, subscribed(4, "m/a", 0));
    assert!(matches!(receive(&mut session, 0, patch(4, 0, 1))[..], [Output::Deliver(2, _)]));
}

#[test]
fn topics_that_went_while_away_are_ended() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("m/*"), None).expect("a valid pattern");
    let first = welcome(&mut session, b"s");
    let request = subscribes(&first)[0].0;
    receive(&mut session, request, subscribed(1, "m/a", 2));
    receive(&mut session, request, subscribed(2, "m/b", 2));
    let again = welcome(&mut session, b"s");
    let outputs = receive(&mut session, subscribes(&again)[0].0, subscribed(7, "m/b", 1));
    let [Output::Deliver(1, Delivery::Subscribed { .. }), Output::Deliver(1, Delivery::Unsubscribed { topic, .. })] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(&**topic, "m/a");
    let third = welcome(&mut session, b"s");
    let outputs = receive(&mut session, subscribes(&third)[0].0, subscribed(0, "", 0));
    let [Output::Deliver(1, Delivery::Unsubscribed { topic, .. }), Output::Deliver(1, Delivery::Unmatched { pattern })] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((&**topic, &**pattern), ("m/b", "m/*"), "that it ended, and then that there is none");
}

#[test]
fn a_topic_that_comes_between_the_answers_is_not_taken_for_gone() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("m/*"), None).expect("a valid pattern");
    let request = subscribes(&welcome(&mut session, b"s"))[0].0;
    receive(&mut session, request, subscribed(1, "m/a", 2));
    receive(&mut session, 0, subscribed(3, "m/c", 1));
    let outputs = receive(&mut session, request, subscribed(2, "m/b", 2));
    assert!(matches!(&outputs[..], [Output::Deliver(1, Delivery::Subscribed { .. })]), "{outputs:?}");
}

#[test]
fn a_passing_refusal_is_final_only_for_a_new_subscription() {
    let overloaded = || Body::Error(wire::Error { code: wire::Code::Overloaded.into(), ..Default::default() });
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("a"), None).expect("a valid name");
    let first = welcome(&mut session, b"s");
    receive(&mut session, subscribes(&first)[0].0, subscribed(1, "a", 1));
    session.subscribe(2, SubscribeOptions::new("b"), None).expect("a valid name");
    let second = said(&mut session);
    let outputs = receive(&mut session, subscribes(&second)[0].0, overloaded());
    assert!(matches!(outputs[..], [Output::Ended(2, _)]), "{outputs:?}");
    let again = welcome(&mut session, b"s");
    assert_eq!(subscribes(&again).len(), 1);
    let outputs = receive(&mut session, subscribes(&again)[0].0, overloaded());
    assert!(matches!(outputs[..], [Output::TryLater(_)]), "{outputs:?}");
    let limit = || Body::Error(wire::Error { code: wire::Code::LimitReached.into(), ..Default::default() });
    let third = welcome(&mut session, b"s");
    let request = subscribes(&third)[0].0;
    receive(&mut session, request, subscribed(1, "a", 1));
    let outputs = receive(&mut session, request, limit());
    assert!(matches!(outputs[..], [Output::Deliver(1, Delivery::Notice { .. })]), "{outputs:?}");
}

#[test]
fn a_revoked_subscription_ends_and_is_not_said_again() {
    let mut session = session();
    session.subscribe(1, SubscribeOptions::new("a"), None).expect("a valid name");
    let first = welcome(&mut session, b"s");
    receive(&mut session, subscribes(&first)[0].0, subscribed(1, "a", 1));
    let revoked = wire::Unsubscribed { topic: "a".into(), reason: wire::Code::Revoked.into() };
    let outputs = receive(&mut session, 0, Body::Unsubscribed(revoked));
    assert!(matches!(outputs[..], [Output::Deliver(1, _), Output::Ended(1, _)]), "{outputs:?}");
    assert!(welcome(&mut session, b"s").is_empty());
}

#[test]
fn credit_is_said_at_a_quarter_and_not_on_another_connection() {
    let mut session = Session::new(String::new(), String::new(), 1_000);
    welcome(&mut session, b"s");
    session.consumed(249);
    assert!(!session.has_frame());
    session.consumed(1);
    assert!(matches!(said(&mut session)[..], [(0, Said::Credit(wire::Credit { bytes: 250 }))]));
    // A patch of a topic that is not subscribed any more is consumed by being passed over.
    for _ in 0..3 {
        receive(&mut session, 0, patch(9, 0, 1));
    }
    assert!(matches!(said(&mut session)[..], [(0, Said::Credit(wire::Credit { bytes: 300 }))]));
    session.consumed(500);
    assert!(welcome(&mut session, b"s").is_empty());
}

#[test]
fn senseless_frames_end_the_connection() {
    let mut session = session();
    session.connected();
    let before_welcome = wire::ServerFrame { request: 0, body: Some(patch(1, 0, 1)) };
    assert!(matches!(session.receive(before_welcome, 1), Err(ClientError::Protocol(_))));
    welcome(&mut session, b"s");
    let twice = wire::Welcome { session: b"s".as_slice().into(), ..wire::Welcome::default() };
    let twice = wire::ServerFrame { request: 1, body: Some(Body::Welcome(twice)) };
    assert!(matches!(session.receive(twice, 1), Err(ClientError::Protocol(_))));
    let of_the_future = wire::ServerFrame { request: 1, body: None };
    assert!(session.receive(of_the_future, 1).expect("it is passed over").is_empty());
}

#[test]
fn however_much_credit_there_is_it_is_given_back_by_the_kilobyte() {
    let mut session = Session::new(String::new(), String::new(), 1_000_000);
    welcome(&mut session, b"s");
    session.consumed(CREDIT_STEP - 1);
    assert!(!session.has_frame());
    session.consumed(1);
    assert!(matches!(said(&mut session)[..], [(0, Said::Credit(wire::Credit { bytes: CREDIT_STEP }))]));
}
