//! Puts a capture's depth messages into the order in which they make a book.
//!
//! The streams run before the snapshot is asked for, so updates that are newer than it come in before it. They are held until it is
//! there; those that it already contains are skipped, and from then on no update id may be missing.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use super::capture::{Event, Message};

/// Updates of one symbol that may wait for its snapshot: half a minute of them. Recorded captures have three.
const HELD_UPDATES: usize = 300;

/// Follows every symbol of a capture.
#[derive(Debug, Default)]
pub struct Alignment {
    symbols: HashMap<Arc<str>, Progress>,
    skipped: u64,
}

#[derive(Debug)]
enum Progress {
    /// Updates that wait for the snapshot, at most [`HELD_UPDATES`].
    Held(Vec<Event>),
    /// The book is known up to this update id.
    Known(u64),
}

/// Why a capture makes no book.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlignError {
    /// Updates were lost: what follows would be a wrong book.
    #[error("{symbol}: updates {from} to {until} are missing")]
    Gap {
        /// Whose.
        symbol: Arc<str>,
        /// The first that is missing.
        from: u64,
        /// The last one.
        until: u64,
    },
    /// The snapshot does not come.
    #[error("{symbol}: no snapshot after {HELD_UPDATES} updates")]
    NoSnapshot {
        /// Whose.
        symbol: Arc<str>,
    },
}

impl Alignment {
    /// Takes the next event and gives those whose turn has come: none, itself, or a snapshot with the updates that waited for it (at
    /// the snapshot's time).
    ///
    /// # Errors
    ///
    /// There can be no right book of this symbol any more.
    pub fn push(&mut self, event: Event) -> Result<Vec<Event>, AlignError> {
        let held = || Progress::Held(Vec::new());
        match event.message {
            Message::BookTicker { .. } | Message::Trade { .. } => Ok(vec![event]),
            Message::Depth { .. } => match self.symbols.entry(Arc::clone(&event.symbol)).or_insert_with(held) {
                Progress::Held(updates) if updates.len() == HELD_UPDATES => {
                    Err(AlignError::NoSnapshot { symbol: event.symbol })
                }
                Progress::Held(updates) => {
                    updates.push(event);
                    Ok(Vec::new())
                }
                Progress::Known(known) => {
                    let is_new = follow(known, &event)?;
                    self.skipped += u64::from(!is_new);
                    Ok(if is_new { vec![event] } else { Vec::new() })
                }
            },
            Message::Snapshot { last, .. } => {
                let progress = self.symbols.entry(Arc::clone(&event.symbol)).or_insert_with(held);
                let updates = match progress {
                    // It would take the book back.
                    Progress::Known(known) if *known > last => {
                        self.skipped += 1;
                        return Ok(Vec::new());
                    }
                    Progress::Known(_) => Vec::new(),
                    Progress::Held(updates) => std::mem::take(updates),
                };
                let (at_ns, mut known, mut due) = (event.at_ns, last, vec![event]);
                for update in updates {
                    if follow(&mut known, &update)? {
                        due.push(Event { at_ns, ..update });
                    } else {
                        self.skipped += 1;
                    }
                }
                *progress = Progress::Known(known);
                Ok(due)
            }
        }
    }

    /// Depth messages that were left out because the book already contained them.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Moves `known` behind an update; false if the update is older.
fn follow(known: &mut u64, update: &Event) -> Result<bool, AlignError> {
    let Message::Depth { first, last, .. } = update.message else { unreachable!("only updates are followed") };
    if last < *known {
        return Ok(false);
    }
    if first > *known + 1 {
        return Err(AlignError::Gap { symbol: Arc::clone(&update.symbol), from: *known + 1, until: first - 1 });
    }
    *known = last;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ns: u64, message: Message) -> Event {
        Event { at_ns, symbol: "X".into(), message }
    }

    fn update(at_ns: u64, first: u64, last: u64) -> Event {
        event(at_ns, Message::Depth { first, last, bids: vec![], asks: vec![] })
    }

    fn snapshot(at_ns: u64, last: u64) -> Event {
        event(at_ns, Message::Snapshot { last, bids: vec![], asks: vec![] })
    }

    #[test]
    fn updates_before_the_snapshot_wait_for_it_and_old_ones_are_skipped() {
        let mut alignment = Alignment::default();
        for early in [update(1, 1, 4), update(2, 5, 8), update(3, 9, 12)] {
            assert_eq!(alignment.push(early), Ok(vec![]));
        }
        let due = alignment.push(snapshot(4, 10)).expect("no gap");
        assert_eq!(due, [snapshot(4, 10), update(4, 9, 12)]);
        assert_eq!(alignment.skipped(), 2);
        assert_eq!(alignment.push(update(5, 13, 13)), Ok(vec![update(5, 13, 13)]));
    }

    #[test]
    fn an_update_that_ends_where_the_snapshot_stands_is_applied() {
        let mut alignment = Alignment::default();
        alignment.push(snapshot(1, 10)).expect("no gap");
        assert_eq!(alignment.push(update(2, 8, 10)).expect("no gap").len(), 1);
        assert_eq!(alignment.push(update(2, 8, 9)).expect("no gap").len(), 0);
    }

    #[test]
    fn a_missing_update_is_an_error() {
        let gap = |from, until| Err(AlignError::Gap { symbol: "X".into(), from, until });
        let mut alignment = Alignment::default();
        alignment.push(snapshot(1, 10)).expect("no gap");
        assert_eq!(alignment.push(update(2, 12, 13)), gap(11, 11));
        let mut alignment = Alignment::default();
        alignment.push(update(1, 15, 20)).expect("it waits");
        assert_eq!(alignment.push(snapshot(2, 10)), gap(11, 14));
    }

    #[test]
    fn a_later_snapshot_replaces_the_book_and_an_older_one_does_not() {
        let mut alignment = Alignment::default();
        alignment.push(snapshot(1, 10)).expect("no gap");
        alignment.push(update(2, 11, 20)).expect("no gap");
        assert_eq!(alignment.push(snapshot(3, 15)), Ok(vec![]));
        assert_eq!(alignment.push(snapshot(4, 30)).expect("no gap").len(), 1);
        assert_eq!(alignment.push(update(5, 31, 31)).expect("no gap").len(), 1);
    }

    #[test]
    fn waiting_for_the_snapshot_has_a_limit() {
        let mut alignment = Alignment::default();
        for id in 0..HELD_UPDATES as u64 {
            alignment.push(update(id, id + 1, id + 1)).expect("within the limit");
        }
        let error = alignment.push(update(0, 999, 999)).expect_err("one too many");
        assert_eq!(error, AlignError::NoSnapshot { symbol: "X".into() });
    }
}
