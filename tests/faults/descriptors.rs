//! A server whose descriptors run out.

use std::net::TcpStream;
use std::time::Duration;

use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use super::serve::Serve;
use super::support::raw::Raw;
use super::support::wait_until;
use super::support::{LIMIT, read_head};

const CLIENTS: usize = 100;
const DESCRIPTORS: &str = "--nofile=64:64";
/// That it does little while there is nothing it could do can only be seen by letting time pass; asking meanwhile would wake it.
const LOOK: Duration = Duration::from_secs(3);

/// What a client says at once, that is answered whenever it is accepted.
fn knock(stream: &TcpStream) {
    use std::io::Write as _;
    let request = "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n";
    let mut stream = stream;
    stream.write_all(request.as_bytes()).expect("a new connection has room");
}

#[test]
fn a_server_without_descriptors_waits_and_accepts_again_as_they_come_back() {
    // Who is accepted says nothing, and must not make room by being closed for it while a loaded machine takes its time.
    let settings = [("TIDEGATE_LIMITS_HELLO_TIME_MS", "600000"), ("TIDEGATE_LIMITS_HEARTBEAT_INTERVAL_MS", "600000")];
    let server = Serve::start(&["prlimit", DESCRIPTORS], &settings);
    let mut admin = server.admin();
    // They are all in the listener's queue at least; those that wait are accepted in their order.
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| Raw::tcp(server.address)).collect();
    clients.iter().for_each(knock);
    wait_until("descriptors run out", || admin.limit_hits("descriptors") > 0);
    let accepted = admin.value("tidegate_connections_accepted_total");
    assert!((10..64).contains(&accepted), "{accepted} were accepted");

    let (calls, ticks) = (admin.value("tidegate_kernel_enters_total"), server.cpu_ticks());
    std::thread::sleep(LOOK);
    let (calls, ticks) = (admin.value("tidegate_kernel_enters_total") - calls, server.cpu_ticks() - ticks);
    // It tries twice a second, and answers our two questions.
    assert!(calls < 100, "{calls} system calls in three seconds of waiting: it spins");
    assert!(ticks < 15, "it computed for {ticks} hundredths of three seconds");
    assert_eq!(admin.value("tidegate_connections_accepted_total"), accepted, "there was none to accept with");

    for (waiting, served) in (accepted..CLIENTS).zip(0..) {
        // One goes, the next in the queue comes.
        clients[served].shutdown(std::net::Shutdown::Both).expect("it is connected");
        clients[waiting].set_read_timeout(Some(LIMIT)).expect("TCP");
        let head = read_head(&mut clients[waiting]);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head:?}");
        if served == 20 {
            break;
        }
    }
    let mut last = Raw { stream: clients.swap_remove(accepted) };
    last.send(1, client_frame::Body::Hello(wire::Hello::default()));
    assert!(matches!(last.body(), Body::Welcome(_)));
    drop((clients, last, admin));
    let log = server.end();
    assert!(log.contains("accepting is paused"), "{log}");
}
