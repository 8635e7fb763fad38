//! Connections that become publishers or subscribers when it is known on which shard they are.

use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::{Load, PATIENCE, VERIFY_ONE_IN, open};
use crate::cli::CliError;
use crate::cli::bench::connection::Connection;
use crate::cli::bench::dialect::{Duty, Role, Tidegate};
use crate::cli::bench::failed;
use crate::cli::bench::options::CommonArgs;
use crate::cli::bench::server::Server;
use crate::cli::bench::shape::Reading;

impl Load {
    /// Connects someone who is greeted and says nothing more.
    pub(in crate::cli::bench) fn guest(
        &mut self,
        server: &Server,
        options: &CommonArgs,
    ) -> Result<Connection, CliError> {
        let role = Role { topic: &self.topic, duty: Duty::Publish, values: self.values, resume: None };
        let mut guest = open(server, options, &role, &mut self.observations)?;
        let deadline = Instant::now() + PATIENCE;
        while !guest.seen.is_ready {
            if guest.read(&mut self.scratch, usize::MAX, &mut self.observations).map_err(failed)? {
                std::thread::sleep(Duration::from_micros(50));
            }
            if Instant::now() > deadline {
                return Err(failed("a connection was not greeted"));
            }
        }
        Ok(guest)
    }

    /// Makes a healthy subscriber of a guest.
    pub(in crate::cli::bench) fn make_subscriber(&mut self, mut guest: Connection) -> Result<(), CliError> {
        let at = self.subscribers.len();
        let is_verifying = at.is_multiple_of(VERIFY_ONE_IN);
        let duty = Duty::Subscribe { is_verifying, credit: 0 };
        let role = Role { topic: &self.topic, duty, values: self.values, resume: None };
        guest.subscribe(Tidegate::new(&role), &role);
        guest.flush().map_err(failed)?;
        self.poll.registry().register(&mut guest.stream, Token(at), Interest::READABLE).map_err(failed)?;
        self.subscribers.push(guest);
        self.begun_at.push(0);
        self.reading.push(Reading::Healthy);
        Ok(())
    }
}
