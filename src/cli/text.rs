//! Bytes of records as text: harmless on a terminal, and without loss in JSON.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Shows bytes as UTF-8, with escapes (`\n`, `\x1b`, `\u{202e}`) for everything that is not or that could move a
/// terminal's cursor, begin another line or turn the direction of writing.
pub(crate) fn shown(bytes: &[u8]) -> Shown<'_> {
    Shown(bytes)
}

pub(crate) struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c if is_invisible(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => fmt::Write::write_char(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Controls beyond ASCII, separators of lines, and the marks that hide or reorder what stands around them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// Puts bytes into a JSON object: as a string under `name` if they are UTF-8, else as base64 under `name_base64`.
pub(crate) fn put(object: &mut serde_json::Map<String, serde_json::Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_can_forge_a_line_or_move_the_cursor() {
        assert_eq!(shown("plain é 世界".as_bytes()).to_string(), "plain é 世界");
        assert_eq!(shown(b"a\r\nb\tc\\d").to_string(), "a\\r\\nb\\tc\\\\d");
        assert_eq!(shown(b"\x1b[2J\x00\x7f\xff\xc3").to_string(), "\\x1b[2J\\x00\\x7f\\xff\\xc3");
        assert_eq!(shown("\u{85}\u{202e}\u{2028}\u{9b}".as_bytes()).to_string(), "\\u{85}\\u{202e}\\u{2028}\\u{9b}");
        for code in (0..0x3000).filter_map(char::from_u32) {
            let text = shown(code.to_string().as_bytes()).to_string();
            assert!(!text.chars().any(char::is_control), "{code:?}");
        }
    }

    #[test]
    fn json_keeps_every_byte() {
        let mut object = serde_json::Map::new();
        put(&mut object, "key", b"text");
        put(&mut object, "value", b"\xff\x00");
        assert_eq!(serde_json::Value::Object(object).to_string(), r#"{"key":"text","value_base64":"/wA="}"#);
    }
}
