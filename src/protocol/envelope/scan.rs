//! A look at a client's envelope before anything is allocated for it: every length fits what is there, and the records
//! are counted. It descends only where records can be, so depth is fixed and the cost is that of a walk over the fields.

use super::{EnvelopeLimits, Malformed};
use crate::protocol::wire::Code;

/// Field numbers of `tidegate.proto`.
const CLIENT_FRAME_REQUEST: u32 = 1;
const CLIENT_FRAME_PUBLISH: u32 = 5;
const PUBLISH_RECORDS: u32 = 2;

/// Looks over an encoded `ClientFrame`; gives its `request`.
pub(super) fn client_frame(message: &[u8], limits: &EnvelopeLimits) -> Result<u64, Malformed> {
    let mut request = 0;
    match walk(message, limits, &mut request) {
        Ok(()) => Ok(request),
        Err(Fault { code, reason }) => Err(Malformed { request, code, reason }),
    }
}

fn walk(message: &[u8], limits: &EnvelopeLimits, request: &mut u64) -> Result<(), Fault> {
    let mut records = 0;
    let mut frame = Fields(message);
    while let Some((number, value)) = frame.next()? {
        match (number, value) {
            (CLIENT_FRAME_REQUEST, Value::Varint(value)) => *request = value,
            // A decoder merges repeated publishes, so their records count together.
            (CLIENT_FRAME_PUBLISH, Value::Bytes(publish)) => {
                let mut publish = Fields(publish);
                while let Some((number, _)) = publish.next()? {
                    records += usize::from(number == PUBLISH_RECORDS);
                    if records > limits.records {
                        return Err(Fault { code: Code::TooLarge, reason: "The publish has too many records." });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

struct Fault {
    code: Code,
    reason: &'static str,
}

impl Fault {
    const fn invalid(reason: &'static str) -> Self {
        Self { code: Code::Invalid, reason }
    }
}

enum Value<'a> {
    Varint(u64),
    /// A string, bytes or message.
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of one encoded message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Fault> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Fault::invalid("A field's number is out of range."))?;
        let number = key >> 3;
        if number == 0 {
            return Err(Fault::invalid("A field has the number 0."));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Fault::invalid("A field has a wire type that proto3 does not have.")),
        };
        Ok(Some((number, value)))
    }

    /// At most ten bytes, of which the last holds one bit.
    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for (i, &byte) in self.0.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << (7 * i);
            if byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(Fault::invalid("A number does not end."))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or(Fault::invalid("A length goes beyond the message."))?;
        self.0 = rest;
        Ok(taken)
    }
}
