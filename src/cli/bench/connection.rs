//! One connection: reads, and has its dialect make something of it.

use std::io::{self, Read};
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::dialect::{Arrival, Dialect, Duty, Observations, Outgoing, Position, Role, Seen, Tidegate};
use super::failed;
use super::socket::{self, write_out};
use crate::cli::{CliError, Exit};

/// A connection of a subscriber or a publisher.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    dialect: Box<dyn Dialect>,
    /// The beginning of a message that is not all there.
    tail: Vec<u8>,
    out: Vec<u8>,
    /// The answer to the upgrade request is still to come.
    is_upgrading: bool,
    pub(super) seen: Seen,
    /// Bytes on the wire, WebSocket headers and control frames included.
    pub(super) bytes: u64,
    /// The other side closed the connection.
    pub(super) has_ended: bool,
}

impl Connection {
    /// Connects, upgrades and says what comes first.
    ///
    /// # Errors
    /// If there is no connection, or what came already is wrong.
    pub(super) fn open(
        address: SocketAddr,
        congestion: Option<&str>,
        dialect: Box<dyn Dialect>,
        role: &Role<'_>,
        observations: &mut Observations,
    ) -> Result<Self, CliError> {
        let upgraded = || {
            let mut stream = socket::connect(address, congestion)?;
            let request = dialect.request(address);
            let behind = request.map_or(Ok(Vec::new()), |request| socket::upgrade(&mut stream, &request))?;
            stream.set_nonblocking(true)?;
            Ok((stream, behind))
        };
        let (stream, behind) = upgraded().map_err(|error: io::Error| {
            let exit = if is_nobody_there(&error) { Exit::NoServer } else { Exit::Failure };
            CliError::new(exit, format!("connecting to {address}: {error}"))
        })?;
        let mut connection = Self::silent(TcpStream::from_std(stream), dialect, role);
        connection.dialect.open(&mut connection.out);
        connection.take(&behind, observations).map_err(failed)?;
        connection.flush().map_err(failed)?;
        Ok(connection)
    }

    /// Begins to connect; whatever is said goes out when it can ([`Connection::flush`]), and is answered by and by.
    ///
    /// # Errors
    /// If the system has no more sockets.
    pub(super) fn begin(
        address: SocketAddr,
        congestion: Option<&str>,
        dialect: Box<dyn Dialect>,
        role: &Role<'_>,
    ) -> Result<Self, String> {
        let stream = socket::begin(address, congestion).map_err(|error| format!("connecting to {address}: {error}"))?;
        let request = dialect.request(address);
        let mut connection = Self::silent(TcpStream::from_std(stream), dialect, role);
        match request {
            Some(request) => {
                connection.out.extend_from_slice(request.as_bytes());
                connection.is_upgrading = true;
            }
            None => connection.dialect.open(&mut connection.out),
        }
        Ok(connection)
    }

    /// Where the same subscriber may go on later.
    pub(super) fn position(&self) -> Option<Position> {
        self.dialect.position()
    }

    /// Becomes a subscriber, if it only greeted so far.
    pub(super) fn subscribe(&mut self, dialect: Tidegate, role: &Role<'_>) {
        dialect.subscribe(&mut self.out);
        self.dialect = Box::new(dialect);
        self.seen.is_verifying = is_verifying(role);
        self.seen.is_ready = false;
    }

    /// Something waits to be written.
    pub(super) fn has_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Goes on counting where an earlier connection of the same subscriber stopped.
    pub(super) fn inherit(&mut self, earlier: &mut Self) {
        let is_verifying = self.seen.is_verifying;
        self.seen = Seen { is_ready: false, is_verifying, is_late: true, ..std::mem::take(&mut earlier.seen) };
        self.bytes = earlier.bytes;
    }

    /// What is to be written, for who speaks past the dialect.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Says nothing, and waits for what comes.
    pub(super) fn silent(stream: TcpStream, dialect: Box<dyn Dialect>, role: &Role<'_>) -> Self {
        Self {
            stream,
            dialect,
            tail: Vec::new(),
            out: Vec::new(),
            is_upgrading: false,
            seen: Seen { is_verifying: is_verifying(role), ..Seen::default() },
            bytes: 0,
            has_ended: false,
        }
    }

    /// Appends a record to be published.
    pub(super) fn publish(&mut self, record: &Outgoing<'_>) {
        self.dialect.publish(record, &mut self.out);
    }

    /// Reads up to `limit` bytes; false when there may be more to read.
    ///
    /// # Errors
    /// If the connection breaks or what comes is wrong.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        limit: usize,
        observations: &mut Observations,
    ) -> Result<bool, String> {
        let size = scratch.len().min(limit);
        let n = match self.stream.read(&mut scratch[..size]) {
            Ok(0) => {
                self.has_ended = true;
                return Err("the server closed a connection".into());
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(broke(&error)),
        };
        self.bytes += n as u64;
        self.take(&scratch[..n], observations)?;
        self.flush()?;
        Ok(n < size)
    }

    fn take(&mut self, bytes: &[u8], observations: &mut Observations) -> Result<(), String> {
        if self.is_upgrading {
            self.tail.extend_from_slice(bytes);
            let Some(behind) = socket::behind_upgrade(&self.tail).map_err(|error| broke(&error))? else {
                return Ok(());
            };
            self.is_upgrading = false;
            let behind = self.tail.split_off(behind);
            self.tail.clear();
            self.dialect.open(&mut self.out);
            return self.take(&behind, observations);
        }
        let mut arrival = Arrival::now(&mut self.seen, observations, &mut self.out);
        if self.tail.is_empty() {
            let used = self.dialect.take(bytes, &mut arrival)?;
            self.tail.extend_from_slice(&bytes[used..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let used = self.dialect.take(&self.tail, &mut arrival)?;
            self.tail.drain(..used);
        }
        Ok(())
    }

    /// What is done by the clock.
    pub(super) fn tick(&mut self) -> Result<(), String> {
        self.dialect.tick(&mut self.out);
        self.flush()
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        write_out(&mut self.stream, &mut self.out).map_err(|error| broke(&error))
    }
}

/// Whether every record is compared.
fn is_verifying(role: &Role<'_>) -> bool {
    matches!(role.duty, Duty::Subscribe { is_verifying: true, .. })
}

fn broke(error: &io::Error) -> String {
    format!("a connection broke: {error}")
}

/// No server answers at the address, as far as the system can tell.
fn is_nobody_there(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut)
}
