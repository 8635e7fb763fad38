//! From logs to connections: who is at the head, who is behind, and what each connection can take.

#![forbid(unsafe_code)]

mod channel;
mod follower;
mod options;
mod outlet;
mod subscriber;
mod window;

pub use channel::{Behind, Channel, Publisher, Ready};
pub use follower::Follower;
pub use options::SubscriptionOptions;
pub use outlet::{Outlet, Taken};
pub use subscriber::{Announcement, Place, Subscriber, Subscription, Waiting};
pub use window::Window;
