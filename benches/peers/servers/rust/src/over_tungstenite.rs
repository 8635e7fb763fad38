//! tokio-tungstenite.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::{Failure, Settings, more, next};

/// One connection.
#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
pub(crate) async fn serve(
    stream: TcpStream,
    topic: broadcast::Sender<Bytes>,
    settings: Settings,
) -> Result<(), Failure> {
    let mut is_publisher = false;
    let look = |request: &Request, response: Response| {
        is_publisher = request.uri().path() == "/publish";
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
    if is_publisher { publisher(socket, topic).await } else { subscriber(socket, topic.subscribe(), settings).await }
}

async fn publisher(mut socket: WebSocketStream<TcpStream>, topic: broadcast::Sender<Bytes>) -> Result<(), Failure> {
    socket.send(Message::text("ready")).await?;
    while let Some(message) = socket.next().await {
        if let Message::Binary(bytes) = message? {
            // That nobody listens is no error.
            let _ = topic.send(bytes);
            socket.send(Message::text("ok")).await?;
        }
    }
    Ok(())
}

async fn subscriber(
    mut socket: WebSocketStream<TcpStream>,
    mut messages: broadcast::Receiver<Bytes>,
    settings: Settings,
) -> Result<(), Failure> {
    socket.send(Message::text("ready")).await?;
    loop {
        tokio::select! {
            message = next(&mut messages) => {
                let mut message = message;
                while let Some(bytes) = message {
                    socket.feed(Message::Binary(bytes)).await?;
                    message = more(&mut messages, settings);
                }
                socket.flush().await?;
            }
            // Pings are answered and a close is confirmed within.
            incoming = socket.next() => match incoming {
                Some(Ok(_)) => {}
                _ => return Ok(()),
            },
        }
    }
}
