//! Bytes to messages and back, without IO: the HTTP upgrade, WebSocket frames, protobuf envelopes, close codes.

#![forbid(unsafe_code)]

/// The messages of `proto/tidegate/v1/tidegate.proto`, generated at build time.
pub mod wire {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/tidegate.v1.rs"));
}
