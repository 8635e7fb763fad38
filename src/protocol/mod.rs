//! Bytes to messages and back, without IO: the HTTP upgrade, WebSocket frames, protobuf envelopes, close codes.
//!
//! In the order in which bytes travel: [`http`] reads one request head, [`websocket`] cuts what follows into messages,
//! [`envelope`] decodes those. On the way back [`envelope`] encodes and [`frame`] puts the head before it. Nothing here
//! reads a clock or a socket, and nothing allocates by what a peer merely claims.

#![forbid(unsafe_code)]

pub mod close;
pub mod envelope;
pub mod frame;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod websocket;

pub use close::CloseCode;

/// The messages of `proto/tidegate/v1/tidegate.proto`, generated at build time.
pub mod wire {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/tidegate.v1.rs"));
}

/// The WebSocket subprotocol that carries [`wire`].
pub const SUBPROTOCOL: &str = "tidegate.v1";
