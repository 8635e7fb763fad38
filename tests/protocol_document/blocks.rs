//! The document's blocks: bytes in hexadecimal, each line with a note behind them.

use std::collections::BTreeMap;

use prost::Message as _;
use tidegate::protocol::wire::{self, server_frame};

use crate::DOCUMENT;

pub(crate) struct Block {
    pub(crate) text: String,
    pub(crate) bytes: Vec<u8>,
}

/// The blocks of the document that begin with "```hex NAME".
pub(crate) fn hex_blocks() -> BTreeMap<String, Block> {
    let mut blocks = BTreeMap::new();
    for part in DOCUMENT.split("\n```hex ").skip(1) {
        let (name, rest) = part.split_once('\n').expect("the fence is a line");
        let text = rest.split("```").next().expect("there is always a first part").to_owned();
        let bytes = text.lines().flat_map(|line| hex_of(line).0).collect();
        assert!(blocks.insert(name.to_owned(), Block { text, bytes }).is_none(), "two blocks are named {name}");
    }
    blocks
}

pub(crate) fn block_of(fence: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("\n```{fence}\n")).expect("the document has this block");
    rest.split("```").next().expect("there is always a first part")
}

pub(crate) fn patch_of(name: &str) -> wire::Patch {
    let frame = wire::ServerFrame::decode(&*hex_blocks()[name].bytes).expect("decoded in another test");
    let Some(server_frame::Body::Patch(patch)) = frame.body else { panic!("{name} is no patch") };
    patch
}

/// The bytes that a line begins with, and the rest.
pub(crate) fn hex_of(line: &str) -> (Vec<u8>, &str) {
    let mut rest = line.trim_start();
    let mut bytes = Vec::new();
    while let Some((word, after)) = rest.split_at_checked(2)
        && let Ok(byte) = u8::from_str_radix(word, 16)
        && (after.is_empty() || after.starts_with(' '))
    {
        bytes.push(byte);
        rest = after.strip_prefix(' ').unwrap_or(after);
        if rest.starts_with(' ') {
            break; // two spaces end the bytes
        }
    }
    (bytes, rest.trim_start())
}
