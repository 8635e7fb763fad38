//! `tidegate echo`: what is tested for conformance to RFC 6455. The engine's own parser, turn and sends, but every path is
//! a WebSocket without a subprotocol, and every message comes back as it was.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::exit::CliError;
use super::serve;
use crate::config::{Config, Flag};
use crate::control::Signals;
use crate::engine::{Engine, Role};
use crate::limits::Limits;
use crate::protocol::http::Endpoint;

/// The largest message that the Autobahn cases send (9.1.6, 9.2.6).
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The most fragments that they cut one into (9.3.1, 9.4.1: 4 MiB by 64 bytes).
const MESSAGE_FRAGMENTS: usize = 65_536;
/// They wait so long for the slowest case (9.7.6, 9.8.6).
const MESSAGE_TIME: Duration = Duration::from_secs(480);
/// Cases that count frames do not expect pings of ours.
const HEARTBEAT_INTERVAL: Duration = Duration::from_hours(24);

/// The options of `echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// Where to listen; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    pub listen: SocketAddr,
    /// Serve more than loopback though nobody has to prove who they are.
    #[arg(long)]
    pub insecure: bool,
}

/// Runs the command.
///
/// # Errors
/// If the address is not for this, the engine cannot start, or its address cannot be printed.
pub fn run(args: &EchoArgs) -> Result<(), CliError> {
    let role = Role { endpoint: Endpoint::Echo, signals: Signals::Handle };
    serve::run_until_shutdown(Engine::start_as(config(args)?, role)?)
}

/// What an echo is configured as: the limits of the cases, and an admin port that is in nobody's way. What holds for the
/// addresses of `serve` holds for its.
fn config(args: &EchoArgs) -> Result<Config, CliError> {
    let set = |flag, key, value| Flag { flag, key, value };
    let flags = [
        set("--listen", "listen", args.listen.to_string()),
        set("--admin", "admin", "127.0.0.1:0".to_owned()),
        set("--insecure", "insecure", args.insecure.to_string()),
    ];
    let config = Config::from_sources(None, [], &flags)?;
    let limits = Limits {
        message_bytes: MESSAGE_BYTES,
        message_fragments: MESSAGE_FRAGMENTS,
        message_time: MESSAGE_TIME,
        heartbeat_interval: HEARTBEAT_INTERVAL,
        ..Limits::default()
    };
    Ok(Config { limits, ..config })
}
