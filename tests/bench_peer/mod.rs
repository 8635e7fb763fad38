//! A small WebSocket server that sends everyone what comes in: what `bench` calls a broadcast peer; and an admin port that lies.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Bytes, Message};

/// What it does wrong, to its first subscriber and with the fiftieth message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    LeavesOut,
    Repeats,
}

const FAULTY: usize = 50;

type Subscribers = Arc<Mutex<Vec<WebSocket<TcpStream>>>>;

/// Starts it; its threads end with the connections, and the listener's with the process.
pub(crate) fn start(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("bound"));
    let subscribers = Subscribers::default();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, subscribers) = (stream.expect("a connection"), subscribers.clone());
            thread::spawn(move || serve(stream, &subscribers, fault));
        }
    });
    url
}

/// An admin port whose `/metrics` always says `text`.
pub(crate) fn admin(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            read_head(&mut stream);
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).expect("the other side reads");
        }
    });
    address
}

fn serve(mut stream: TcpStream, subscribers: &Subscribers, fault: Fault) {
    let is_publisher = upgrade(&mut stream).starts_with("GET /publish ");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    // Nobody publishes between a subscriber's answer and its place in the list.
    let mut list = subscribers.lock().expect("not poisoned");
    socket.send(Message::text("ready")).expect("the other side reads");
    if !is_publisher {
        list.push(socket);
        return;
    }
    drop(list);
    let mut count = 0;
    while let Ok(Message::Binary(value)) = socket.read() {
        count += 1;
        for (at, subscriber) in subscribers.lock().expect("not poisoned").iter_mut().enumerate() {
            let copies = match fault {
                Fault::LeavesOut if at == 0 && count == FAULTY => 0,
                Fault::Repeats if at == 0 && count == FAULTY => 2,
                _ => 1,
            };
            for _ in 0..copies {
                subscriber.send(Message::Binary(Bytes::clone(&value))).expect("the other side reads");
            }
        }
        socket.send(Message::text("done")).expect("the other side reads");
    }
}

/// Answers the request, which it returns. The key is the one of RFC 6455 section 1.3, and so is the answer.
fn upgrade(stream: &mut TcpStream) -> String {
    let head = read_head(stream);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(answer.as_bytes()).expect("the other side reads");
    head
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a request");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}
