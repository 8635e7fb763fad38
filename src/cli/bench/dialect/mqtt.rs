//! MQTT 3.1.1 over WebSocket (OASIS standard, sections cited): QoS 1 from the publisher, whose PUBACK is the acknowledgement, and
//! QoS 0 to subscribers.

use std::net::SocketAddr;

use super::stream::Stream;
use super::{Arrival, Dialect, Duty, Outgoing, Role, take_frames, websocket_request};
use crate::cli::bench::frames::{FIN_BINARY, put_frame};

/// Fixed headers (section 2.2): packet type and flags.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS_0: u8 = 0x30;
const PUBLISH_QOS_1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// One connection.
pub(super) struct Mqtt {
    topic: String,
    duty: Duty,
    stream: Stream,
}

impl Mqtt {
    pub(super) fn new(role: &Role<'_>) -> Self {
        Self { topic: role.topic.to_owned(), duty: role.duty, stream: Stream::default() }
    }
}

impl Dialect for Mqtt {
    fn request(&self, address: SocketAddr) -> Option<String> {
        Some(websocket_request(address, "/mqtt", Some("mqtt")))
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        // Section 3.1: level 4, a clean session, no keep-alive, and an identifier that the server chooses.
        put_packet(out, CONNECT, &[b"\x00\x04MQTT\x04\x02\x00\x00", b"\x00\x00"]);
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        // Section 2.3.1: a packet identifier is not 0.
        let identifier = (record.serial % 0xffff) as u16 + 1;
        put_packet(out, PUBLISH_QOS_1, &[&string(&self.topic), &identifier.to_be_bytes(), record.value]);
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        let Self { topic, duty, stream } = self;
        let used = take_frames(bytes, arrival, |_, payload, arrival| {
            stream.go_on(payload, |bytes| {
                let Some(Packet { first, body, len }) = packet(bytes)? else { return Ok(0) };
                take_packet(first, body, topic, *duty, arrival)?;
                Ok(len)
            })
        })?;
        Ok(used)
    }
}

fn take_packet(first: u8, body: &[u8], topic: &str, duty: Duty, arrival: &mut Arrival<'_>) -> Result<(), String> {
    match (first, body) {
        (PUBLISH_QOS_0, [high, low, rest @ ..]) => {
            let topic_len = usize::from(u16::from_be_bytes([*high, *low]));
            arrival.record(rest.get(topic_len..).ok_or("an MQTT topic is longer than its packet")?)
        }
        (PUBACK, _) => {
            arrival.acknowledged(1);
            Ok(())
        }
        (CONNACK, [_, 0]) => {
            if duty == Duty::Publish {
                arrival.ready();
            } else {
                // Section 3.8: identifier 1, QoS 0.
                put_packet(arrival.out, SUBSCRIBE, &[b"\x00\x01", &string(topic), &[0]]);
            }
            Ok(())
        }
        // Section 3.9.3: a granted QoS, not 0x80.
        (SUBACK, [_, _, 0]) => {
            arrival.ready();
            Ok(())
        }
        _ => Err(format!("the server sent an MQTT packet {first:#04x} of {} bytes", body.len())),
    }
}

/// One packet, whole.
#[derive(Debug, PartialEq, Eq)]
struct Packet<'a> {
    /// The first byte: type and flags.
    first: u8,
    /// What is behind the remaining length.
    body: &'a [u8],
    /// Bytes of all of it.
    len: usize,
}

/// The packet that `bytes` begin with (section 2.2.3); `None` if it is not all there.
fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, String> {
    let mut remaining = 0;
    for at in 1..=4 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let (head, len) = (at + 1, at + 1 + remaining);
            return Ok(bytes.get(head..len).map(|body| Packet { first: bytes[0], body, len }));
        }
    }
    Err("an MQTT packet's length has more than four bytes".into())
}

/// Appends a packet in a WebSocket message of its own.
fn put_packet(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    let body = parts.concat();
    let (mut packet, mut len) = (vec![first], body.len());
    loop {
        let byte = (len & 0x7f) as u8;
        len >>= 7;
        packet.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    packet.extend_from_slice(&body);
    put_frame(out, FIN_BINARY, &packet);
}

/// Section 1.5.3.
fn string(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("a topic is short");
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::frames;

    #[test]
    fn a_packet_is_there_when_its_last_byte_is() {
        for len in [0, 1, 127, 128, 16_383, 16_384] {
            let (body, mut framed) = (vec![7; len], Vec::new());
            put_packet(&mut framed, PUBLISH_QOS_0, &[&body]);
            let head = frames::head(&[framed[0], framed[1] & 0x7f, framed[2], framed[3]]).expect("a head");
            let mut bytes = framed.split_off(head.len + 4);
            bytes.iter_mut().zip([0x5a, 0xc3, 0x19, 0x77].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            let expected = Packet { first: PUBLISH_QOS_0, body: &body, len: bytes.len() };
            assert_eq!(packet(&bytes), Ok(Some(expected)));
            assert_eq!(packet(&bytes[..bytes.len() - 1]), Ok(None));
        }
        packet(&[PUBLISH_QOS_0, 0xff, 0xff, 0xff, 0xff, 1]).expect_err("five bytes of length");
    }
}
