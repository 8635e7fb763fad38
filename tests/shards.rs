//! Several shards on real sockets: whatever works with one works with four, and a client cannot tell how many there are.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use support::{Client, end, engine, event, keyed, wait_until};
use tidegate::config::Shards;
use tidegate::engine::{Engine, PublishError, Update};
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

fn shards(count: u16) -> Engine {
    engine(|config| config.shards = Shards::Count(count))
}

/// Connections of every shard, several each.
fn everywhere(engine: &Engine, least: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        clients.push(Client::hello(engine.local_addr()));
        let reports = engine.reports().expect("the shards answer");
        if reports.iter().all(|report| report.gauges.connections >= least) {
            return clients;
        }
        assert!(clients.len() < 1_000, "connections are spread");
    }
}

fn resume(topic: &str, epoch: u64, offset: u64) -> wire::Subscribe {
    let resume = Some(wire::Position { epoch, offset });
    wire::Subscribe { topic: topic.to_owned(), resume, ..wire::Subscribe::default() }
}

#[test]
fn records_of_any_publisher_reach_subscribers_on_every_shard() {
    let engine = shards(4);
    let mut clients = everywhere(&engine, 2);
    let topics: Vec<String> = (0..12).map(|at| format!("depth/{at}")).collect();
    let count = clients.len();
    for (at, topic) in topics.iter().enumerate() {
        clients[at % count].publish_records(topic, vec![keyed("b1", "10"), event("trade")]);
    }
    let mut subscribers: Vec<_> = (0..40).map(|_| Client::hello(engine.local_addr())).collect();
    let mut ids = BTreeSet::new();
    for subscriber in &mut subscribers {
        for topic in &topics {
            let (subscribed, patch) = subscriber.subscribe_to(topic);
            assert_eq!((&subscribed.topic, subscribed.head, subscribed.matching), (topic, 2, 1));
            assert_eq!((patch.from, patch.to, patch.reset, patch.more), (0, 2, true, false));
            assert!(patch.checksum.is_some());
            ids.insert(subscribed.topic_id);
        }
    }
    assert_eq!(ids.len(), topics.len(), "an id names one topic, and is the same for everyone");
    for (at, topic) in topics.iter().enumerate() {
        let published = clients[(at + 3) % count].publish_records(topic, vec![keyed("b1", "11")]);
        assert_eq!(published.offset, 3);
    }
    for subscriber in &mut subscribers {
        for _ in &topics {
            let patch = subscriber.patch();
            assert_eq!((patch.from, patch.to, patch.records.len()), (2, 3, 1));
        }
    }
    let report = engine.report().expect("the shards answer");
    assert!(report.counters.forwarded > 0, "replicas pass the home's bytes on");
    assert_eq!((report.gauges.topics, report.counters.stale_transfers), (12, 0));
    end(engine);
}

#[test]
fn what_was_acknowledged_is_found_by_a_subscription_on_any_shard() {
    let engine = shards(4);
    let mut clients = everywhere(&engine, 1);
    for round in 0..50 {
        let topic = format!("t/{round}");
        let publisher = round % clients.len();
        clients[publisher].publish_records(&topic, vec![keyed("k", "v")]);
        let subscriber = (round * 7 + 1) % clients.len();
        let request = clients[subscriber].send(client_frame::Body::Subscribe(wire::Subscribe {
            topic: topic.clone(),
            ..wire::Subscribe::default()
        }));
        let frame = clients[subscriber].frame();
        let Some(Body::Subscribed(subscribed)) = frame.body else { panic!("no Subscribed") };
        assert_eq!((frame.request, subscribed.head, &subscribed.topic), (request, 1, &topic));
        assert_ne!(subscribed.topic_id, 0, "it exists");
        clients[subscriber].patch();
        clients[subscriber].send(client_frame::Body::Unsubscribe(wire::Unsubscribe { topic }));
        let Body::Unsubscribed(_) = clients[subscriber].body() else { panic!("no Unsubscribed") };
    }
    end(engine);
}

#[test]
fn a_pattern_matches_topics_of_every_home_now_and_later() {
    let engine = shards(4);
    let mut clients = everywhere(&engine, 1);
    for at in 0..10 {
        clients[0].publish_records(&format!("m/{at}"), vec![keyed("k", "v")]);
    }
    let mut subscriber = Client::hello(engine.local_addr());
    let request = subscriber
        .send(client_frame::Body::Subscribe(wire::Subscribe { topic: "m/*".into(), ..wire::Subscribe::default() }));
    let (mut told, mut patched) = (BTreeSet::new(), 0);
    while told.len() < 10 || patched < 10 {
        let frame = subscriber.frame();
        match frame.body {
            Some(Body::Subscribed(subscribed)) => {
                assert_eq!((frame.request, subscribed.matching), (request, 10));
                told.insert(subscribed.topic);
            }
            Some(Body::Patch(patch)) => {
                assert!(patch.reset && patch.to == 1);
                patched += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    for at in 10..20_u32 {
        let at_client = at as usize % clients.len();
        clients[at_client].publish_records(&format!("m/{at}"), vec![keyed("k", "v")]);
        let Body::Subscribed(subscribed) = subscriber.body() else { panic!("no Subscribed") };
        assert_eq!((subscribed.topic, subscribed.resumed), (format!("m/{at}"), false));
        assert_eq!(subscribed.matching, at + 1, "with those that are there already");
        assert_eq!(subscriber.patch().to, 1);
    }
    end(engine);
}

#[test]
fn a_client_resumes_wherever_it_lands() {
    let engine = shards(4);
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("depth/X", (0..100).map(|at| keyed(&format!("k{at}"), "0")).collect());
    let mut first = Client::hello(engine.local_addr());
    let (subscribed, patch) = first.subscribe_to("depth/X");
    let (epoch, mut offset) = (subscribed.epoch, patch.to);
    drop(first);
    for round in 0..40 {
        let published = publisher.publish_records("depth/X", vec![keyed("k1", &format!("{round}")), event("e")]);
        let mut again = Client::hello(engine.local_addr());
        let (subscribed, patch) = again.subscribe(resume("depth/X", epoch, offset));
        assert!(subscribed.resumed && !patch.reset, "round {round}");
        assert_eq!((patch.from, patch.to, patch.records.len()), (offset, published.offset, 2));
        offset = patch.to;
        let (subscribed, patch) = again.subscribe(resume("depth/X", epoch, offset + 1));
        assert!(!subscribed.resumed && patch.reset, "beyond the head");
    }
    end(engine);
}

#[test]
fn a_session_is_taken_over_wherever_it_lives_and_its_sequences_with_it() {
    let engine = shards(4);
    let hello = |session: Vec<u8>| wire::Hello { session: session.into(), ..wire::Hello::default() };
    let publish = |topic: &str, sequence| wire::Publish {
        topic: topic.to_owned(),
        records: vec![event("e")],
        sequence,
        ..wire::Publish::default()
    };
    let topics = ["a", "b", "c", "d", "e", "f"];
    let (mut holder, welcome) = Client::hello_with(engine.local_addr(), hello(Vec::new()));
    for topic in topics {
        assert!(!holder.publish(publish(topic, 5)).duplicate);
    }
    let mut session = welcome.session.to_vec();
    for round in 0..12 {
        let (mut next, welcome) = Client::hello_with(engine.local_addr(), hello(session.clone()));
        assert_eq!(welcome.session, session, "every home knows its sequences");
        let code = loop {
            match holder.try_frame() {
                Ok(_) => {}
                Err(ending) => break ending.code(),
            }
        };
        assert_eq!(code, 4500, "round {round}");
        for topic in topics {
            let again = next.publish(publish(topic, 5 + round));
            assert!(again.duplicate, "round {round}: {topic}");
            let fresh = next.publish(publish(topic, 6 + round));
            assert_eq!((fresh.offset, fresh.duplicate), (2 + round, false));
        }
        session = welcome.session.to_vec();
        holder = next;
    }
    let report = engine.report().expect("the shards answer");
    assert_eq!(report.counters.takeovers, 12);
    end(engine);
}

#[test]
fn a_session_that_has_published_nothing_is_taken_over_wherever_it_lives() {
    let engine = shards(4);
    let hello = |session: bytes::Bytes| wire::Hello { session, ..wire::Hello::default() };
    let (mut holder, welcome) = Client::hello_with(engine.local_addr(), hello(bytes::Bytes::new()));
    for round in 0..12 {
        let (next, again) = Client::hello_with(engine.local_addr(), hello(welcome.session.clone()));
        assert_eq!(again.session, welcome.session, "round {round}");
        let Body::GoAway(go_away) = holder.body() else { panic!("no GoAway in round {round}") };
        assert_eq!(go_away.reason(), wire::Code::TakenOver);
        assert_eq!(holder.try_frame().expect_err("it is closed").code(), 4500);
        holder = next;
    }
    end(engine);
}

#[test]
fn a_publisher_that_asks_for_too_much_is_held_back_by_a_home_elsewhere() {
    let engine = engine(|config| {
        config.shards = Shards::Count(4);
        config.limits.unflushed_event_bytes = 10_000;
        config.limits.messages_per_second = 1_000_000;
    });
    let mut subscriber = Client::hello(engine.local_addr());
    let mut publishers = everywhere(&engine, 1);
    publishers[0].publish_records("e", vec![event("first")]);
    let (_, patch) = subscriber.subscribe_to("e");
    let mut at = patch.to;
    let payload = "x".repeat(8_000);
    let count = publishers.len() as u64;
    for publisher in &mut publishers {
        for _ in 0..20 {
            let records = vec![event(&payload), event(&payload)];
            let publish = wire::Publish { topic: "e".into(), records, ..wire::Publish::default() };
            publisher.send(client_frame::Body::Publish(publish));
        }
    }
    let (mut delivered, mut passed) = (0, 0);
    while at < 1 + 40 * count {
        let patch = subscriber.patch();
        assert_eq!(patch.from, at);
        at = patch.to;
        delivered += patch.records.len() as u64;
        passed += patch.expired + patch.overrun + patch.lost;
    }
    assert_eq!(delivered + passed, 40 * count);
    let hits = engine.report().expect("the shards answer").counters.limit_hits;
    assert!(hits.unflushed_event_bytes > 0);
    end(engine);
}

#[test]
fn a_topic_that_was_forgotten_comes_back_as_another_everywhere() {
    let engine = engine(|config| {
        config.shards = Shards::Count(4);
        config.classes.last_mut().expect("there is one").linger = std::time::Duration::from_millis(50);
    });
    let mut clients = everywhere(&engine, 1);
    for client in &mut clients {
        client
            .send(client_frame::Body::Subscribe(wire::Subscribe { topic: "x/*".into(), ..wire::Subscribe::default() }));
        let Body::Subscribed(subscribed) = client.body() else { panic!("no Subscribed") };
        assert_eq!(subscribed.topic_id, 0);
    }
    let mut publisher = Client::hello(engine.local_addr());
    let mut epochs = BTreeSet::new();
    for round in 0..3 {
        publisher.publish_records("x/y", vec![keyed("k", "v")]);
        for client in &mut clients {
            let Body::Subscribed(subscribed) = client.body() else { panic!("no Subscribed in round {round}") };
            epochs.insert(subscribed.epoch);
            assert_eq!(subscribed.matching, 1, "those before it are no more, in round {round}");
            assert_eq!(client.patch().to, 1);
        }
        publisher.publish_records("x/y", vec![wire::Record { delete: true, ..keyed("k", "") }]);
        for client in &mut clients {
            assert_eq!(client.patch().to, 2);
            let Body::Unsubscribed(gone) = client.body() else { panic!("no Unsubscribed in round {round}") };
            assert_eq!((gone.topic.as_str(), gone.reason()), ("x/y", wire::Code::NotFound));
        }
    }
    assert_eq!(epochs.len(), 3);
    assert_eq!(engine.report().expect("the shards answer").gauges.topics, 0);
    end(engine);
}

#[test]
fn a_replica_without_subscribers_is_given_up_and_comes_back() {
    let engine = engine(|config| {
        config.shards = Shards::Count(2);
        config.classes.last_mut().expect("there is one").linger = std::time::Duration::from_millis(20);
    });
    let mut publisher = Client::hello(engine.local_addr());
    let mut offset = publisher.publish_records("x", vec![keyed("k", "0")]).offset;
    for round in 0..20 {
        let mut subscribers: Vec<_> = (0..4).map(|_| Client::hello(engine.local_addr())).collect();
        for subscriber in &mut subscribers {
            let (_, patch) = subscriber.subscribe_to("x");
            assert_eq!(patch.to, offset);
        }
        offset = publisher.publish_records("x", vec![keyed("k", &format!("{round}"))]).offset;
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.patch().to, offset);
        }
        drop(subscribers);
        wait_until("replicas are given up", || engine.report().expect("they answer").gauges.replicas == 0);
    }
    end(engine);
}

#[test]
fn a_burst_of_connections_spreads_within_a_fifth() {
    let engine = shards(4);
    let address: SocketAddr = engine.local_addr();
    let connections = || engine.report().expect("they answer").gauges.connections;
    let of_first = || engine.reports().expect("they answer")[0].gauges.connections;
    // The kernel alone spreads them evenly enough. So one shard has a good part of them beforehand: of those that come one after another
    // those that went to it, and the others go.
    let (mut clients, mut others) = (Vec::new(), Vec::new());
    while clients.len() < 300 {
        let client = std::net::TcpStream::connect(address).expect("it listens");
        wait_until("it is accepted", || connections() == clients.len() + others.len() + 1);
        if of_first() > clients.len() { clients.push(client) } else { others.push(client) }
    }
    drop(others);
    wait_until("the others are gone", || connections() == clients.len());
    clients.extend((clients.len()..2_000).map(|_| std::net::TcpStream::connect(address).expect("it listens")));
    wait_until("all are accepted", || connections() == clients.len());
    let reports = engine.reports().expect("the shards answer");
    let counts: Vec<_> = reports.iter().map(|report| report.gauges.connections).collect();
    assert!(counts.iter().all(|count| (400..=600).contains(count)), "{counts:?}");
    drop(clients);
    end(engine);
}

#[test]
fn a_program_publishes_without_a_socket_and_is_told_to_slow_down() {
    let engine = engine(|config| {
        config.shards = Shards::Count(2);
        config.limits.unflushed_event_bytes = 1_000;
    });
    let publisher = engine.publisher();
    for topic in ["a", "b", "c", "d"] {
        let receipt =
            publisher.publish_with_receipt(topic, [Update::state("k", "v"), Update::event("e")]).expect("room");
        assert_eq!(receipt.wait().expect("it is applied").0, 2);
        publisher.replace(topic, [Update::state("other", "v")]).expect("room");
        let (_, patch) = Client::hello(engine.local_addr()).subscribe_to(topic);
        let keys: Vec<_> = patch.records.iter().filter(|record| !record.delete && !record.key.is_empty()).collect();
        assert_eq!((patch.to, keys.len()), (4, 1), "{patch:?}");
    }
    assert!(matches!(publisher.publish("not a name!", [Update::event("e")]), Err(PublishError::Name(_))));
    assert!(matches!(publisher.publish("a", [Update::delete("")]), Err(PublishError::Record(_))));
    assert_eq!(publisher.publish("a", []), Err(PublishError::Empty));
    let payload = "x".repeat(2_000);
    let mut is_full = false;
    for _ in 0..1_000_000 {
        match publisher.publish("a", [Update::event(payload.clone())]) {
            Ok(()) => {}
            Err(PublishError::Full) => {
                is_full = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(is_full, "a program that never waits is told");
    publisher.publish_blocking("a", [Update::state("last", "v")]).expect("there is room in the end");
    wait_until("it arrived", || {
        let (_, patch) = Client::hello(engine.local_addr()).subscribe_to("a");
        patch.records.iter().chain(&patch.ahead).any(|record| record.key == "last")
    });
    end(engine);
    assert_eq!(publisher.publish("a", [Update::event("e")]), Err(PublishError::Ended));
}
