//! Publishing: records to send, and what comes back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::session::Published;
use super::{ClientError, wire};

/// One update to publish.
///
/// ```
/// use tidegate::client::{Priority, Record};
///
/// let price = Record::state("BTC-USD", "64000.5").with_window_ms(5_000);
/// let trade = Record::event(r#"{"size":1}"#).with_priority(Priority::High);
/// let gone = Record::delete("ETH-USD");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Record(wire::Record);

impl Record {
    /// State: the key's value from now on.
    #[must_use]
    pub fn state(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(wire::Record { key: key.into(), value: value.into(), ..wire::Record::default() })
    }

    /// An event, which has no key.
    #[must_use]
    pub fn event(value: impl Into<Bytes>) -> Self {
        Self(wire::Record { value: value.into(), ..wire::Record::default() })
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self(wire::Record { key: key.into(), delete: true, ..wire::Record::default() })
    }

    /// With another priority than the topic's.
    #[must_use]
    pub fn with_priority(mut self, priority: wire::Priority) -> Self {
        self.0.set_priority(priority);
        self
    }

    /// With another relevance window than the topic's: past it an event is no longer sent, and a key that was not
    /// written again is deleted.
    #[must_use]
    pub fn with_window_ms(mut self, window_ms: u32) -> Self {
        self.0.window_ms = window_ms;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.0.key.len() > 255 {
            return Err(ClientError::Invalid(format!("a key has at most 255 bytes, not {}", self.0.key.len())));
        }
        if self.0.delete && self.0.key.is_empty() {
            return Err(ClientError::Invalid("only a key can be deleted".into()));
        }
        Ok(())
    }
}

impl From<Record> for wire::Record {
    fn from(record: Record) -> Self {
        record.0
    }
}

/// The acknowledgement of a publish that is under way. Dropping it does not take the publish back.
#[derive(Debug)]
pub struct Acknowledgement(pub(crate) oneshot::Receiver<Result<Published, ClientError>>);

impl Future for Acknowledgement {
    type Output = Result<Published, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(ClientError::Stopped)))
    }
}
