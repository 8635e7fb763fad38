//! Lost connections: when the client comes back, when not, and what it says then.

use tokio::io::AsyncWriteExt as _;
use wire::server_frame;

use super::*;

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_stopped() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    peer.patch(1, 0, 2, &[("a", "1"), ("b", "2")]).await;
    next_patch(&mut subscription).await;
    peer.patch(1, 2, 3, &[("c", "3")]).await;
    drop(next_patch(&mut subscription).await);
    let states = peer.cut();
    let (mut peer, _) = script.welcome(b"session-1").await;
    peer.states = states;
    let (request, subscribe) = peer.subscribe().await;
    assert_eq!(subscribe.resume, Some(wire::Position { epoch: 5, offset: 3 }));
    peer.subscribed(request, 1, "x", true).await;
    peer.patch(1, 3, 4, &[("a", "4")]).await;
    assert!(matches!(subscription.next().await, Ok(Update::Subscribed { is_resumed: true, .. })));
    let patch = next_patch(&mut subscription).await;
    assert!(!patch.is_reset && patch.is_verified);
    assert_eq!(subscription.state("x").map(TopicState::key_count), Some(3));
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test]
async fn a_pattern_starts_from_snapshots_without_known_events() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let server = async {
        let (request, _) = peer.subscribe().await;
        peer.subscribed(request, 1, "m/a", false).await;
        peer.patch(1, 0, 2, &[("", "event"), ("k", "v")]).await;
    };
    let (subscription, ()) = tokio::join!(client.subscribe(SubscribeOptions::new("m/*")), server);
    let mut subscription = subscription.expect("the script says yes");
    assert_eq!(next_patch(&mut subscription).await.events.len(), 1);
    drop(peer);
    let (mut peer, _) = script.welcome(b"session-1").await;
    let (request, subscribe) = peer.subscribe().await;
    assert_eq!(subscribe.resume, None);
    peer.subscribed(request, 1, "m/a", false).await;
    peer.patch(1, 0, 3, &[("", "event"), ("k", "v"), ("", "new")]).await;
    let patch = next_patch(&mut subscription).await;
    assert_eq!(patch.events.iter().map(|event| event.offset).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn go_away_says_when_to_come_back() {
    let script = Script::start().await;
    // Only the time in GoAway brings it back within the test.
    let (client, mut peer) = connected(&script, |options| {
        options.reconnect.first = Duration::from_secs(3_600);
        options.reconnect.most = options.reconnect.first;
    })
    .await;
    let go_away = wire::GoAway { reason: Code::ShuttingDown.into(), reconnect_after_ms: 1 };
    peer.send(0, server_frame::Body::GoAway(go_away)).await;
    peer.close(1001).await;
    assert!(matches!(peer.next().await, Got::Close(1001)), "the close is answered");
    script.welcome(b"session-1").await;
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test]
async fn go_away_without_a_time_is_for_good() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let mut subscription = subscribed(&client, &mut peer).await;
    let go_away = wire::GoAway { reason: Code::Revoked.into(), reconnect_after_ms: 0 };
    peer.send(0, server_frame::Body::GoAway(go_away)).await;
    drop(peer);
    let end = ClientError::SentAway { reason: Code::Revoked };
    assert_eq!(soon(subscription.next()).await.expect_err("it is over"), end);
    assert_eq!(soon(subscription.next()).await.expect_err("it stays over"), end);
    assert_eq!(client.publish("t", [Record::event("e")]).await, Err(end));
}

#[tokio::test]
async fn codes_from_4500_are_for_good() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let waiting = client.publish_nowait("t", [Record::event("e")]).await.expect("there is room");
    peer.publish().await;
    // A time to come back does not change what the code says.
    let go_away = wire::GoAway { reason: Code::Revoked.into(), reconnect_after_ms: 1 };
    peer.send(0, server_frame::Body::GoAway(go_away)).await;
    peer.close(4501).await;
    let end = ClientError::Closed { code: 4501, reason: "scripted".into() };
    assert_eq!(soon(waiting).await, Err(end.clone()));
    let mut status = client.status();
    let status = soon(status.wait_for(|status| matches!(status, Status::Ended(_)))).await.expect("the client lives");
    assert_eq!(*status, Status::Ended(end));
    drop(status);
    assert_eq!(client.stats().reconnects, 0);
}

#[tokio::test]
async fn reconnect_now_ends_the_wait() {
    let script = Script::start().await;
    let (client, peer) = connected(&script, |options| {
        options.reconnect.first = Duration::from_secs(3_600);
        options.reconnect.most = options.reconnect.first;
    })
    .await;
    drop(peer);
    let mut status = client.status();
    soon(status.wait_for(|status| matches!(status, Status::Waiting { .. }))).await.expect("the client lives");
    client.reconnect_now();
    script.welcome(b"session-1").await;
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let script = Script::start().await;
    let (client, peer) = connected(&script, |options| options.silence_grace = Duration::ZERO).await;
    // The heartbeat is 1 s; the connection stays open all the while.
    let (_second, _) = script.welcome(b"session-1").await;
    assert_eq!(client.stats().reconnects, 1);
    drop(peer);
}

#[tokio::test]
async fn a_refused_handshake_says_status_and_sentence() {
    let script = Script::start().await;
    let server = async {
        let (mut stream, _) = script.accept_tcp().await;
        let answer =
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 16\r\n\r\nfull\x1b[2J\nsecond.";
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
    };
    let (result, ()) = tokio::join!(Client::connect(script.options()), server);
    let error = result.map(drop).expect_err("the script refuses");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.to_string().ends_with("HTTP status 503: full[2J"), "{error:?}");
}

#[tokio::test]
async fn a_refused_hello_and_no_server_are_told_at_once() {
    let script = Script::start().await;
    let server = async {
        let mut peer = script.accept().await;
        peer.next().await;
        peer.error(1, Code::Unauthenticated, "no such token").await;
    };
    let (result, ()) = tokio::join!(Client::connect(script.options()), server);
    assert!(matches!(result, Err(ClientError::Server { code: Code::Unauthenticated, .. })), "{result:?}");
    let options = script.options();
    drop(script);
    assert!(matches!(Client::connect(options).await, Err(ClientError::NoServer { .. })));
}
