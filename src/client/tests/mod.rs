//! The client against a server that plays a script over loopback.

mod peer;
mod publishing;
mod reconnecting;

use peer::{Got, Peer, Script};

use super::*;

/// A failure instead of a hang: what waits for the other side does so within this. Nothing waits so long when it works.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the other side does its part")
}

/// A client that comes back at once, and its first connection after the Welcome.
async fn connected(script: &Script, change: impl FnOnce(&mut Options)) -> (Client, Peer) {
    let mut options = script.options();
    change(&mut options);
    let (client, peer) = tokio::join!(Client::connect(options), script.welcome(b"session-1"));
    (client.expect("the script says welcome"), peer.0)
}

/// Subscribes to `x` and answers with epoch 5, no patch.
async fn subscribed(client: &Client, peer: &mut Peer) -> Subscription {
    let answer = async {
        let (request, subscribe) = peer.subscribe().await;
        peer.subscribed(request, 1, &subscribe.topic, false).await;
    };
    let (subscription, ()) = tokio::join!(client.subscribe(SubscribeOptions::new("x")), answer);
    let mut subscription = subscription.expect("the script says yes");
    assert!(matches!(subscription.next().await, Ok(Update::Subscribed { is_resumed: false, .. })));
    subscription
}

async fn next_patch(subscription: &mut Subscription) -> PatchUpdate {
    loop {
        if let Update::Patch(patch) = soon(subscription.next()).await.expect("the subscription goes on") {
            return patch;
        }
    }
}

#[tokio::test]
async fn patches_become_updates_and_state() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    peer.patch(1, 0, 2, &[("a", "1"), ("b", "2")]).await;
    let patch = next_patch(&mut subscription).await;
    assert!(patch.is_reset && patch.is_current && patch.is_verified);
    assert_eq!((patch.changes.len(), patch.epoch, &*patch.topic), (2, 5, "x"));
    peer.patch(1, 2, 3, &[("a", "3")]).await;
    next_patch(&mut subscription).await;
    let state = subscription.state("x").expect("the topic is known");
    assert_eq!((state.get(b"a"), state.offset()), (Some(&"3".into()), 3));
    drop(subscription);
    assert_eq!(peer.unsubscribe().await, "x");
    let closing = async {
        assert!(matches!(peer.next().await, Got::Close(1000)));
        peer.close(1000).await;
    };
    tokio::join!(client.close(), closing);
    assert_eq!(client.publish("x", [Record::event("late")]).await, Err(ClientError::Stopped));
}

#[tokio::test]
async fn credit_follows_what_the_application_takes() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |options| options.credit_bytes = 400).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    let mut lengths = Vec::new();
    for offset in 0..4 {
        lengths.push(peer.patch(1, offset, offset + 1, &[("key", &"v".repeat(40))]).await);
    }
    // The ping is answered though nothing was taken, and no credit stands before it.
    peer.ping(b"alive?").await;
    assert!(matches!(peer.next().await, Got::Pong(payload) if payload == b"alive?"));
    next_patch(&mut subscription).await;
    next_patch(&mut subscription).await;
    let (first, second) = (lengths[0], lengths[1]);
    assert!(first < 100 && first + second >= 100, "one patch is under a quarter, two are above: {lengths:?}");
    assert_eq!(peer.credit().await, (first + second) as u64);
    // What nobody will take any more is confirmed too.
    drop(subscription);
    assert_eq!(peer.credit_after_unsubscribe().await, (lengths[2] + lengths[3]) as u64);
}

#[tokio::test]
async fn without_credit_a_pong_waits_for_the_application() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    peer.ping(b"nothing is queued").await;
    assert!(matches!(peer.next().await, Got::Pong(payload) if payload == b"nothing is queued"));
    peer.patch(1, 0, 1, &[("a", "1")]).await;
    peer.patch(1, 1, 2, &[("a", "2")]).await;
    peer.ping(b"marker").await;
    peer.patch(1, 2, 3, &[("a", "3")]).await;
    // A publish's frame comes before the pong, because the patches were not taken.
    let publish = async {
        let (request, _) = peer.publish().await;
        peer.published(request, 1, false).await;
    };
    let (published, ()) = tokio::join!(client.publish("y", [Record::event("e")]), publish);
    published.expect("the script acknowledges");
    next_patch(&mut subscription).await;
    let second = client.publish_nowait("y", [Record::event("e")]).await.expect("there is room");
    peer.publish().await;
    next_patch(&mut subscription).await;
    assert!(matches!(peer.next().await, Got::Pong(payload) if payload == b"marker"));
    drop(second);
}

#[tokio::test]
async fn a_mismatch_starts_the_subscription_anew() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    peer.patch(1, 0, 2, &[("a", "1"), ("b", "2")]).await;
    next_patch(&mut subscription).await;
    peer.patch(1, 3, 4, &[("a", "wrong")]).await;
    peer.patch(1, 4, 5, &[("a", "wrong")]).await;
    let server = async {
        let (request, subscribe) = peer.subscribe().await;
        assert_eq!((subscribe.topic.as_str(), subscribe.resume), ("x", None));
        peer.patch(1, 5, 6, &[("a", "wrong, but on its way")]).await;
        peer.subscribed(request, 1, "x", false).await;
        peer.patch(1, 0, 6, &[("a", "right")]).await;
    };
    let (patch, ()) = tokio::join!(next_patch(&mut subscription), server);
    assert!(patch.is_reset && patch.is_verified);
    assert_eq!(subscription.state("x").and_then(|state| state.get(b"a")), Some(&"right".into()));
    assert_eq!((client.stats().mismatches, client.stats().reconnects), (1, 0));
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_and_the_client_goes_on() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let server = async {
        let (request, _) = peer.subscribe().await;
        peer.error(request, Code::Forbidden, "not yours").await;
    };
    let (result, ()) = tokio::join!(client.subscribe(SubscribeOptions::new("secret/*")), server);
    let error = result.expect_err("the script refuses");
    assert!(matches!(&error, ClientError::Server { code: Code::Forbidden, .. }), "{error}");
    subscribed(&client, &mut peer).await;
    let twice = client.subscribe(SubscribeOptions::new("a b")).await.expect_err("not a name");
    assert!(twice.to_string().contains("not a valid topic"), "{twice}");
}

#[tokio::test]
async fn several_topics_of_a_pattern_and_their_end() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let server = async {
        let (request, _) = peer.subscribe().await;
        peer.subscribed(request, 0, "", false).await;
        peer.subscribed(0, 8, "m/a", false).await;
        peer.subscribed(0, 9, "m/b", false).await;
        peer.patch(9, 0, 1, &[("k", "b")]).await;
        peer.patch(8, 0, 1, &[("k", "a")]).await;
        peer.unsubscribed("m/b", Code::NotFound).await;
    };
    let (subscription, ()) = tokio::join!(client.subscribe(SubscribeOptions::new("m/*")), server);
    let mut subscription = subscription.expect("it stands without a topic");
    assert_eq!(&*next_patch(&mut subscription).await.topic, "m/b");
    assert_eq!(&*next_patch(&mut subscription).await.topic, "m/a");
    assert_eq!(subscription.topics().count(), 2);
    assert!(matches!(subscription.next().await, Ok(Update::Unsubscribed { topic, .. }) if &*topic == "m/b"));
    assert_eq!(subscription.topics().map(|(name, _)| name).collect::<Vec<_>>(), ["m/a"]);
}
