//! Subscribers that lose their connections and come back.

use std::net::Shutdown;
use std::ops::Range;

use mio::{Interest, Token};

use super::Load;
use crate::cli::CliError;
use crate::cli::bench::connection::Connection;
use crate::cli::bench::dialect::{self, Duty, Role};
use crate::cli::bench::failed;

/// So many clients connect again before the others are looked after.
const RETURNING_AT_ONCE: usize = 16;

impl Load {
    /// Breaks the connections of some subscribers, which stop where they are.
    pub(in crate::cli::bench) fn drop_connections(&mut self, which: Range<usize>) {
        for subscriber in &mut self.subscribers[which] {
            // A socket that is not polled cannot say that it ended, and one that ended already is as gone as is wanted.
            let _ = self.poll.registry().deregister(&mut subscriber.stream);
            let _ = subscriber.stream.shutdown(Shutdown::Both);
        }
    }

    /// Has them connect again, as fast as it goes beside everything else, each from where it was.
    pub(in crate::cli::bench) fn come_back(&mut self, which: Range<usize>) {
        self.returning = which;
    }

    /// Everyone who was to connect again has begun to.
    pub(in crate::cli::bench) fn is_back(&self) -> bool {
        self.returning.is_empty()
    }

    pub(super) fn begin_to_return(&mut self) -> Result<(), CliError> {
        let end = self.returning.end.min(self.returning.start + RETURNING_AT_ONCE);
        for at in std::mem::replace(&mut self.returning.start, end)..end {
            let duty = Duty::Subscribe { is_verifying: false, credit: self.credit };
            let resume = self.subscribers[at].position();
            let role = Role { topic: &self.topic, duty, values: self.values, resume };
            let dialect = dialect::of(self.peer, &role);
            let (address, congestion) = &self.target;
            let mut fresh = Connection::begin(*address, congestion.as_deref(), dialect, &role).map_err(failed)?;
            let interests = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut fresh.stream, Token(at), interests).map_err(failed)?;
            fresh.inherit(&mut self.subscribers[at]);
            self.subscribers[at] = fresh;
        }
        Ok(())
    }
}
