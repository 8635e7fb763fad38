//! Fan-out servers over tokio-tungstenite and fastwebsockets, as one writes them: a task for each connection, one tokio
//! broadcast channel, one thread.
//!
//! `/publish` is a publisher: its message goes to all subscribers and is answered "ok". Everything else is a subscriber. Both are
//! told "ready" when they are. Usage: `tidegate-bench-peers tungstenite|fastwebsockets PORT default|throughput|freshness`

mod over_fastwebsockets;
mod over_tungstenite;

use std::error::Error;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// What a profile sets.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Messages that the channel keeps for subscribers that lag; older ones are dropped for them.
    kept: usize,
    /// Write whatever is there before flushing once, instead of flushing after each message.
    is_batching: bool,
    /// Bytes of each connection's send buffer in the kernel.
    send_buffer: Option<usize>,
}

impl Settings {
    fn of(profile: &str) -> Option<Self> {
        match profile {
            "default" => Some(Self { kept: 65_536, is_batching: false, send_buffer: None }),
            "throughput" => Some(Self { kept: 65_536, is_batching: true, send_buffer: None }),
            "freshness" => Some(Self { kept: 16, is_batching: true, send_buffer: Some(16 * 1024) }),
            _ => None,
        }
    }
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, port, profile] = &arguments[..] else {
        return Err("usage: tidegate-bench-peers tungstenite|fastwebsockets PORT PROFILE".into());
    };
    let settings = Settings::of(profile).ok_or("no such profile")?;
    let is_tungstenite = match library.as_str() {
        "tungstenite" => true,
        "fastwebsockets" => false,
        _ => return Err("no such library".into()),
    };
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    println!("listening on {}", listener.local_addr()?);
    let topic = broadcast::Sender::new(settings.kept);
    loop {
        let stream = listener.accept().await?.0;
        prepare(&stream, settings)?;
        let topic = topic.clone();
        // A connection that breaks ends its task, and nothing else.
        if is_tungstenite {
            tokio::spawn(over_tungstenite::serve(stream, topic, settings));
        } else {
            tokio::spawn(over_fastwebsockets::serve(stream, topic, settings));
        }
    }
}

fn prepare(stream: &TcpStream, settings: Settings) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    settings.send_buffer.map_or(Ok(()), |bytes| socket2::SockRef::from(stream).set_send_buffer_size(bytes))
}

/// The next message for a subscriber, past those that it missed; `None` when there will be none.
async fn next(messages: &mut broadcast::Receiver<Bytes>) -> Option<Bytes> {
    loop {
        match messages.recv().await {
            Ok(message) => return Some(message),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

/// A message that is there already, if batches are wanted.
fn more(messages: &mut broadcast::Receiver<Bytes>, settings: Settings) -> Option<Bytes> {
    settings.is_batching.then(|| messages.try_recv().ok())?
}
