//! A slow link: a relay between a client and the engine that passes so many bytes a second each way.
//!
//! It behaves as a modem does: bytes come out as long after they went in as the link takes for them, and what is sent faster
//! waits in its buffer. Only its rate is special; the client behind it reads at once, and its pongs take the same way back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

/// What waits before the link, beside what the sender's kernel holds: more than a second's worth at the usual rate, as home
/// routers have it, so that it takes care not to fill it.
const BUFFER_BYTES: u32 = 32 * 1024;
/// What waits behind the link: nothing should, since the client reads at once.
const FAR_BUFFER_BYTES: u32 = 8 * 1024;
/// Bytes come out in portions of so long.
const PORTION: Duration = Duration::from_millis(20);

/// The link's near end, for whoever connects there.
pub(super) struct Link {
    listener: TcpListener,
    engine: SocketAddr,
    bytes_per_second: u32,
    /// Bytes that came out at the client's end.
    passed: Arc<AtomicU64>,
}

impl Link {
    /// A link to `engine`, on a free port of the loopback.
    pub(super) async fn new(engine: SocketAddr, bytes_per_second: u32, passed: Arc<AtomicU64>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        Ok(Self { listener, engine, bytes_per_second, passed })
    }

    /// Where clients connect.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves one connection after the other, until it is dropped: a client that comes back finds the link again.
    pub(super) async fn run(self) {
        loop {
            let Ok((near, _)) = self.listener.accept().await else {
                tokio::time::sleep(PORTION).await; // out of descriptors, for example
                continue;
            };
            if let Err(error) = self.pass(near).await {
                tracing::debug!(%error, "the link's connection broke");
            }
        }
    }

    async fn pass(&self, near: TcpStream) -> io::Result<()> {
        let socket = if self.engine.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        let far = socket.connect(self.engine).await?;
        socket2::SockRef::from(&near).set_send_buffer_size(FAR_BUFFER_BYTES as usize)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let up = pass(near_in, far_out, self.bytes_per_second, None);
        let down = pass(far_in, near_out, self.bytes_per_second, Some(&*self.passed));
        tokio::try_join!(up, down).map(drop)
    }
}

/// One direction, until its end.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    bytes_per_second: u32,
    passed: Option<&AtomicU64>,
) -> io::Result<()> {
    let portion = (f64::from(bytes_per_second) * PORTION.as_secs_f64()).ceil() as usize;
    let mut buffer = vec![0; portion.max(1)];
    let mut free_at = Instant::now();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        // A timer that was late is caught up; an idle link saves nothing for later.
        let begins = free_at.max(Instant::now() - PORTION);
        free_at = begins + Duration::from_secs_f64(count as f64 / f64::from(bytes_per_second));
        tokio::time::sleep_until(free_at).await;
        to.write_all(&buffer[..count]).await?;
        if let Some(passed) = passed {
            passed.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real time, but no upper limit on it: a busy machine makes a link slower, never faster.
    #[tokio::test]
    async fn bytes_come_out_whole_and_no_faster_than_the_link_is() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let passed = Arc::new(AtomicU64::new(0));
        let link = Link::new(server.local_addr().expect("bound"), 400_000, Arc::clone(&passed)).await.expect("a port");
        let address = link.local_addr().expect("bound");
        let running = tokio::spawn(link.run());
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let (expected, started) = (sent.clone(), Instant::now());
        let sender = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.expect("the link connects");
            stream.write_all(&sent).await.expect("the link reads");
        });
        let mut client = TcpStream::connect(address).await.expect("the link listens");
        let mut received = Vec::new();
        let reading = client.read_to_end(&mut received);
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it ends").expect("it is whole");
        assert_eq!(received, expected);
        assert_eq!(passed.load(Ordering::Relaxed), 100_000);
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        sender.await.expect("it ended");
        running.abort();
    }
}
