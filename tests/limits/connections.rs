//! Connections: how many there are, of one address, and how fast they come.

use std::net::SocketAddr;

use tidegate::shard::LimitHits;

use super::support::raw::Raw;
use super::support::wait_until;
use super::support::{end, engine, read_head};
use super::{hits, strict};

/// Insists that one more connection is told to come back later.
fn is_refused(address: SocketAddr) {
    let mut stream = Raw::tcp(address);
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert!(head.contains("\r\nRetry-After: 5\r\n"), "{head}");
}

#[test]
fn there_are_so_many_connections() {
    // Applies to the trusted, too.
    let engine = engine(|config| config.limits.connections = 2);
    let first = Raw::hello(engine.local_addr());
    let mut second = Raw::hello(engine.local_addr());
    assert_eq!(hits(&engine), LimitHits::default());
    is_refused(engine.local_addr());
    assert_eq!(hits(&engine), LimitHits { connections: 1, ..LimitHits::default() });
    second.is_served();
    drop(first);
    wait_until("both connections are given back", || {
        engine.report().expect("the shard answers").gauges.connections == 1
    });
    Raw::hello(engine.local_addr()).is_served();
    end(engine);
}

#[test]
fn an_address_has_so_many_connections() {
    let engine = strict(|limits| limits.connections_per_address = 2);
    let first = Raw::hello(engine.local_addr());
    let mut second = Raw::hello(engine.local_addr());
    assert_eq!(hits(&engine), LimitHits::default());
    is_refused(engine.local_addr());
    assert_eq!(hits(&engine), LimitHits { connections_per_address: 1, ..LimitHits::default() });
    second.is_served();
    drop(first);
    wait_until("both connections are given back", || {
        engine.report().expect("the shard answers").gauges.connections == 1
    });
    Raw::hello(engine.local_addr()).is_served();
    end(engine);
}

#[test]
fn so_many_connections_are_accepted_a_second() {
    let engine = strict(|limits| limits.accepts_per_second = 1);
    let mut first = Raw::hello(engine.local_addr());
    is_refused(engine.local_addr());
    first.is_served();
    assert_eq!(hits(&engine), LimitHits { accepts_per_second: 1, ..LimitHits::default() });
    end(engine);
}

#[test]
fn who_is_trusted_has_no_limit_by_address() {
    let engine = engine(|config| (config.limits.connections_per_address, config.limits.accepts_per_second) = (1, 1));
    let mut clients: Vec<_> = (0..5).map(|_| Raw::hello(engine.local_addr())).collect();
    clients.iter_mut().for_each(Raw::is_served);
    assert_eq!(hits(&engine), LimitHits::default());
    end(engine);
}
