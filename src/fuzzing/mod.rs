//! What the fuzzers check, one function for each target: arbitrary bytes in, a panic if something is wrong. Built for tests and
//! by cargo-fuzz (`fuzz/`) only; nobody who uses the crate sees it.
//!
//! Each has an oracle that was written without a look at what it judges: tungstenite, prost, a naive reading of the grammar, a
//! log that forgets nothing. Inputs that once mattered are kept in `tests/corpus/`, and every test run replays them.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "seen by nobody outside")]

pub mod envelope;
pub mod http_head;
pub mod log;
pub mod names;
pub mod websocket;

/// Choices that follow from a seed, for cutting a stream anywhere.
fn choices(seed: u32) -> impl FnMut(usize) -> usize {
    let mut state = u64::from(seed) << 1 | 1;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replay(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).expect("a target has a corpus") {
            let path = entry.expect("a folder that can be read").path();
            println!("{}", path.display());
            check(&std::fs::read(path).expect("a file"));
            count += 1;
        }
        assert!(count >= 10, "{count} inputs in {}", folder.display());
    }

    #[test]
    fn the_corpus_of_heads_is_judged_right() {
        replay("http_head", http_head::check);
    }

    #[test]
    fn the_corpus_of_streams_is_judged_right() {
        replay("websocket", websocket::check);
    }

    #[test]
    fn the_corpus_of_envelopes_is_judged_right() {
        replay("envelope", envelope::check);
    }

    #[test]
    fn the_corpus_of_names_is_judged_right() {
        replay("names", names::check);
    }

    #[test]
    fn the_corpus_of_histories_is_judged_right() {
        replay("log", log::check);
    }
}
