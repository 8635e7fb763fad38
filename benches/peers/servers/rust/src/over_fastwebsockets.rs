//! fastwebsockets.

use std::convert::Infallible;

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, WebSocketWrite,
    after_handshake_split,
};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::BufWriter;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast;

use crate::{Failure, Settings, more, next};

/// What a batch is gathered in.
const BATCH_BYTES: usize = 64 * 1024;

/// One connection.
pub(crate) async fn serve(
    stream: TcpStream,
    topic: broadcast::Sender<Bytes>,
    settings: Settings,
) -> Result<(), Failure> {
    let answer = |mut request: Request<Incoming>| {
        let topic = topic.clone();
        async move {
            let is_publisher = request.uri().path() == "/publish";
            let (response, upgraded) = upgrade(&mut request)?;
            tokio::spawn(upgraded_connection(upgraded, is_publisher, topic, settings));
            Ok::<_, WebSocketError>(response)
        }
    };
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    Ok(connection.with_upgrades().await?)
}

async fn upgraded_connection(
    upgraded: UpgradeFut,
    is_publisher: bool,
    topic: broadcast::Sender<Bytes>,
    settings: Settings,
) -> Result<(), Failure> {
    // Out of hyper's hands, so that its boxes stand in no write's way; the generator says nothing before it is answered.
    let parts =
        upgraded.await?.into_inner().into_inner().downcast::<TokioIo<TcpStream>>().map_err(|_| "no TCP stream")?;
    if !parts.read_buf.is_empty() {
        return Err("bytes before the answer".into());
    }
    let (read, write) = parts.io.into_inner().into_split();
    // Without room a writer passes everything on at once.
    let room = if settings.is_batching && !is_publisher { BATCH_BYTES } else { 0 };
    let (read, write) = after_handshake_split(read, BufWriter::with_capacity(room, write), Role::Server);
    if is_publisher {
        publisher(read, write, topic).await
    } else {
        subscriber(read, write, topic.subscribe(), settings).await
    }
}

type Reader = WebSocketRead<OwnedReadHalf>;
type Writer = WebSocketWrite<BufWriter<OwnedWriteHalf>>;

async fn publisher(read: Reader, mut write: Writer, topic: broadcast::Sender<Bytes>) -> Result<(), Failure> {
    write.write_frame(Frame::text(Payload::Borrowed(b"ready"))).await?;
    let mut read = FragmentCollectorRead::new(read);
    loop {
        let frame = read.read_frame(&mut |_| async { Ok::<_, Infallible>(()) }).await?;
        match frame.opcode {
            OpCode::Binary => {
                // That nobody listens is no error.
                let _ = topic.send(Bytes::copy_from_slice(&frame.payload));
                write.write_frame(Frame::text(Payload::Borrowed(b"ok"))).await?;
            }
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}

async fn subscriber(
    read: Reader,
    mut write: Writer,
    mut messages: broadcast::Receiver<Bytes>,
    settings: Settings,
) -> Result<(), Failure> {
    write.write_frame(Frame::text(Payload::Borrowed(b"ready"))).await?;
    write.flush().await?;
    let mut ended = tokio::spawn(until_closed(read));
    loop {
        tokio::select! {
            message = next(&mut messages) => {
                let mut message = message;
                while let Some(bytes) = message {
                    write.write_frame(Frame::binary(Payload::Borrowed(&bytes))).await?;
                    message = more(&mut messages, settings);
                }
                write.flush().await?;
            }
            _ = &mut ended => return Ok(()),
        }
    }
}

/// Reads what a subscriber says until it goes.
async fn until_closed(read: Reader) {
    let mut read = FragmentCollectorRead::new(read);
    while let Ok(frame) = read.read_frame(&mut |_| async { Ok::<_, Infallible>(()) }).await {
        if frame.opcode == OpCode::Close {
            return;
        }
    }
}
