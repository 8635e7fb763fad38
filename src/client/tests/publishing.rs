//! Publishes and their acknowledgements, also over lost connections.

use super::*;

#[tokio::test]
async fn an_unacknowledged_publish_is_sent_again_with_its_sequence() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let first = client.publish_nowait("t", [Record::event("1")]).await.expect("there is room");
    let second = client.publish_nowait("t", [Record::event("2")]).await.expect("there is room");
    let (request, publish_1) = peer.publish().await;
    peer.published(request, 10, false).await;
    assert_eq!(soon(first).await.map(|published| published.offset), Ok(10));
    let (_, publish_2) = peer.publish().await;
    assert!(publish_2.sequence > publish_1.sequence);
    drop(peer);
    let third = client.publish_nowait("t", [Record::event("3")]).await.expect("there is room");
    let (mut peer, hello) = script.welcome(b"session-1").await;
    assert_eq!(&hello.session[..], b"session-1", "asks for its session");
    let (request, again) = peer.publish().await;
    assert_eq!(again, publish_2);
    peer.published(request, 0, true).await;
    let (request, publish_3) = peer.publish().await;
    assert!(publish_3.sequence > publish_2.sequence);
    peer.published(request, 12, false).await;
    assert_eq!(soon(second).await, Ok(Published { offset: 0, is_duplicate: true, may_be_repeated: false }));
    assert_eq!(soon(third).await, Ok(Published { offset: 12, is_duplicate: false, may_be_repeated: false }));
}

#[tokio::test]
async fn in_another_session_a_publish_that_was_sent_may_be_repeated() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let sent = client.publish_nowait("t", [Record::state("k", "v")]).await.expect("there is room");
    peer.publish().await;
    drop(peer);
    // Ordered behind the end of the connection by the status, so that it is never sent in the first session.
    let mut status = client.status();
    soon(status.wait_for(|status| !matches!(status, Status::Connected))).await.expect("the client lives");
    let unsent = client.publish_nowait("t", [Record::state("k", "w")]).await.expect("there is room");
    let (mut peer, _) = script.welcome(b"session-2").await;
    for offset in [1, 2] {
        let (request, _) = peer.publish().await;
        peer.published(request, offset, false).await;
    }
    assert_eq!(soon(sent).await.map(|published| published.may_be_repeated), Ok(true));
    assert_eq!(soon(unsent).await.map(|published| published.may_be_repeated), Ok(false));
}

#[tokio::test]
async fn a_refused_publish_is_an_error_and_is_not_repeated() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let server = async {
        let (request, _) = peer.publish().await;
        peer.error(request, Code::Forbidden, "read only").await;
    };
    let (result, ()) = tokio::join!(client.publish("t", [Record::event("e")]), server);
    assert!(matches!(result, Err(ClientError::Server { code: Code::Forbidden, .. })), "{result:?}");
    drop(peer);
    let (mut peer, _) = script.welcome(b"session-1").await;
    let subscribing = client.subscribe(SubscribeOptions::new("x"));
    tokio::pin!(subscribing);
    tokio::select! {
        _ = &mut subscribing => panic!("nobody answered"),
        (_, subscribe) = peer.subscribe() => assert_eq!(subscribe.topic, "x"),
    }
}

#[tokio::test]
async fn what_the_server_would_never_take_is_not_sent() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |_| {}).await;
    let long = client.publish("t", [Record::event("x".repeat(2_000))]).await.expect_err("1,024 bytes is the limit");
    assert!(long.to_string().contains("the server takes 1024"), "{long}");
    for (topic, record) in
        [("a/*", Record::event("e")), ("t", Record::state("k".repeat(256), "v")), ("t", Record::delete(""))]
    {
        let result = client.publish(topic, [record]).await;
        assert!(matches!(result, Err(ClientError::Invalid(_))), "{result:?}");
    }
    let ok = client.publish_nowait("t", [Record::event("e")]).await.expect("there is room");
    assert_eq!(peer.publish().await.1.records[0].value, "e");
    drop(ok);
}

#[tokio::test]
async fn only_so_many_publishes_are_outstanding() {
    let script = Script::start().await;
    let (client, mut peer) = connected(&script, |options| options.publishes_outstanding = 2).await;
    let _first = client.publish_nowait("t", [Record::event("1")]).await.expect("there is room");
    let _second = client.publish_nowait("t", [Record::event("2")]).await.expect("there is room");
    let third = client.publish_nowait("t", [Record::event("3")]);
    tokio::pin!(third);
    let (request, _) = peer.publish().await;
    let (_, second) = peer.publish().await;
    assert_eq!(second.records[0].value, "2");
    assert!(std::future::poll_fn(|context| std::task::Poll::Ready(third.as_mut().poll(context))).await.is_pending());
    peer.published(request, 1, false).await;
    soon(third).await.expect("an acknowledgement makes room");
    assert_eq!(peer.publish().await.1.records[0].value, "3");
}
