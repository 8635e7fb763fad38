//! Messages taken apart by the wire contract, so that each byte has a name.

use std::collections::HashMap;

use prost::encoding::decode_varint;

/// Fields that differ from run to run.
const RANDOM: [&str; 8] = [
    "ServerFrame.welcome.session",
    "ServerFrame.welcome.server_time_us",
    "ServerFrame.welcome.server",
    "ServerFrame.subscribed.epoch",
    "ServerFrame.patch.time_us",
    "ServerFrame.pong.server_time_us",
    "ServerFrame.go_away.reconnect_after_ms",
    "ClientFrame.subscribe.resume.epoch",
];

/// Names of the wire contract, so that annotations are compared with them and not with another copy.
pub(crate) struct Schema {
    /// By message and number: name and type.
    fields: HashMap<(String, u64), (String, String)>,
    /// By enumeration and number.
    values: HashMap<(String, u64), String>,
}

/// One field of a message, and of the messages in it.
struct Field {
    depth: usize,
    bytes: Vec<u8>,
    path: String,
    value: Value,
}

enum Value {
    Message(usize),
    Other(String),
}

impl Schema {
    /// Reads what it needs of a `.proto` file: messages that are not nested, one field a line.
    pub(crate) fn of(contract: &str) -> Self {
        let mut schema = Self { fields: HashMap::new(), values: HashMap::new() };
        let mut within = (String::new(), String::new());
        for line in contract.lines() {
            let line = line.split("//").next().expect("there is always a first part");
            let words: Vec<_> = line.split(|c: char| c.is_whitespace() || c == ';').filter(|w| !w.is_empty()).collect();
            match words[..] {
                [kind @ ("message" | "enum"), name, "{"] => within = (kind.to_owned(), name.to_owned()),
                [name, "=", number] if within.0 == "enum" => {
                    let number = number.parse().expect("a number");
                    schema.values.insert((within.1.clone(), number), name.to_owned());
                }
                [.., kind, name, "=", number] => {
                    let number = number.parse().expect("a number");
                    schema.fields.insert((within.1.clone(), number), (name.to_owned(), kind.to_owned()));
                }
                _ => {}
            }
        }
        schema
    }

    /// The fields in the order in which they travel, each with its value, those that are random without.
    pub(crate) fn fields(&self, message: &str, bytes: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        self.walk(message, message, bytes, 0, &mut fields);
        let line = |Field { path, value, .. }: Field| match value {
            Value::Other(value) if !RANDOM.contains(&path.as_str()) => format!("{path}: {value}"),
            _ => path,
        };
        fields.into_iter().map(line).collect()
    }

    /// The message as the document shows it: a field a line, sixteen bytes at most, indented by depth.
    pub(crate) fn annotated(&self, message: &str, bytes: &[u8]) -> String {
        let mut fields = Vec::new();
        self.walk(message, message, bytes, 0, &mut fields);
        let mut text = String::new();
        for Field { depth, bytes, path, value } in fields {
            let name = path.rsplit('.').next().expect("there is always a last part");
            let mut note = match value {
                Value::Message(len) => format!("{name}: {len} bytes"),
                Value::Other(value) => format!("{name}: {value}"),
            };
            for row in bytes.chunks(16) {
                let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
                let hex = format!("{}{}", "   ".repeat(depth), hex.join(" "));
                text += format!("{hex:54}{note}").trim_end();
                text += "\n";
                note.clear();
            }
        }
        text
    }

    fn walk(&self, path: &str, message: &str, mut bytes: &[u8], depth: usize, out: &mut Vec<Field>) {
        while !bytes.is_empty() {
            let start = bytes;
            let tag = decode_varint(&mut bytes).expect("a tag");
            let (name, kind) = &self.fields[&(message.to_owned(), tag >> 3)];
            let path = format!("{path}.{name}");
            let is_message = self.fields.keys().any(|(message, _)| message == kind);
            let (value, inner) = match tag & 7 {
                0 => (Value::Other(self.number(kind, decode_varint(&mut bytes).expect("a number"))), None),
                1 => (Value::Other(format!("0x{:016x}", u64::from_le_bytes(take(&mut bytes)))), None),
                5 => (Value::Other(format!("0x{:08x}", u32::from_le_bytes(take(&mut bytes)))), None),
                2 => {
                    let len = decode_varint(&mut bytes).expect("a length") as usize;
                    let (content, rest) = bytes.split_at(len);
                    let head = start.len() - bytes.len();
                    bytes = rest;
                    if is_message {
                        (Value::Message(len), Some((head, content)))
                    } else {
                        (Value::Other(quoted(content)), None)
                    }
                }
                other => panic!("wire type {other}"),
            };
            let own = inner.map_or(start.len() - bytes.len(), |(head, _)| head);
            out.push(Field { depth, bytes: start[..own].to_vec(), path: path.clone(), value });
            if let Some((_, content)) = inner {
                self.walk(&path, kind, content, depth + 1, out);
            }
        }
    }

    fn number(&self, kind: &str, number: u64) -> String {
        match kind {
            "bool" => (number != 0).to_string(),
            _ => self.values.get(&(kind.to_owned(), number)).cloned().unwrap_or_else(|| number.to_string()),
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = bytes.split_first_chunk().expect("enough bytes");
    *bytes = rest;
    *taken
}

fn quoted(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains(char::is_control) => format!("{text:?}"),
        _ => format!("{} random bytes", content.len()),
    }
}
