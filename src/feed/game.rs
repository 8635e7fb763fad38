//! A recorded match as entity state: who is on the field, where, and with which attributes.
//!
//! Lines are `frame,time,kind,actor,attr,x,y,z,qx,qy,qz,qw,sleeping`, under a header that says so. As records, on one topic:
//!
//! | kind | record |
//! |---|---|
//! | `new` | key `<actor>/new`, value the archetype |
//! | `rb` | key `<actor>/rb`, value position and rotation as seven little-endian 32-bit floats, then 1 if it sleeps, else 0 |
//! | `upd` | key `<actor>/<type>`, value what stands behind the colon: `Byte:(128)` is `Byte` and `(128)` |
//! | `del` | deletes all keys of the actor |

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;

use super::lines::{FeedError, Lines, Problem};
use super::records::{Publication, delete, set, split};
use crate::protocol::wire::Record;

/// The first line of such a recording.
pub const HEADER: &str = "frame,time,kind,actor,attr,x,y,z,qx,qy,qz,qw,sleeping";
/// Bytes of an attribute's type, so that its key stays well under 255.
const MAX_TYPE_BYTES: usize = 64;
/// Rows of one frame; recorded ones have up to 443.
const MAX_FRAME_ROWS: usize = 65_536;

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its frame; rows of one frame happen together.
    pub frame: u64,
    /// When, in nanoseconds of the recording.
    pub at_ns: u64,
    /// Whom it concerns.
    pub actor: u32,
    /// What happened.
    pub change: Change,
}

/// What a row says of its actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attribute has this value now.
    Set {
        /// The attribute.
        attribute: String,
        /// Its value.
        value: Bytes,
    },
    /// The actor is gone.
    Delete,
}

/// The publications of one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// When, in nanoseconds of the recording.
    pub at_ns: u64,
    /// What to publish then: one publication, or several if it is too large for one.
    pub publications: Vec<Publication>,
}

/// A recording being read: an iterator of its rows, which ends after an error.
pub struct Rows {
    lines: Lines,
    is_begun: bool,
    is_over: bool,
}

impl Rows {
    /// Opens a recording, gzipped or plain.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        Lines::open(path).map(Self::new)
    }

    /// A recording from its lines, the header first.
    #[must_use]
    pub fn new(lines: Lines) -> Self {
        Self { lines, is_begun: false, is_over: false }
    }

    fn read(&mut self) -> Result<Option<Row>, FeedError> {
        if !std::mem::replace(&mut self.is_begun, true) && self.lines.next_line()? != Some(HEADER) {
            return Err(self.lines.error(Problem::Malformed(format!("the first line is not {HEADER:?}"))));
        }
        let Some(line) = self.lines.next_line()? else { return Ok(None) };
        let row = parse(line).ok_or_else(|| Problem::Malformed(format!("not a row of a match: {line:?}")));
        row.map(Some).map_err(|problem| self.lines.error(problem))
    }
}

impl Iterator for Rows {
    type Item = Result<Row, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

fn parse(line: &str) -> Option<Row> {
    let fields: [&str; 13] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
    let [frame, time, kind, actor, attribute, motion @ ..] = fields;
    let seconds: f64 = time.parse().ok().filter(|seconds| (0.0..1e9).contains(seconds))?;
    let change = match kind {
        "new" => Change::Set { attribute: "new".to_owned(), value: Bytes::copy_from_slice(attribute.as_bytes()) },
        "rb" => Change::Set { attribute: "rb".to_owned(), value: pack(&motion)? },
        "upd" => {
            let (kind, value) = attribute.split_once(':')?;
            let is_type = (1..=MAX_TYPE_BYTES).contains(&kind.len()) && kind != "new" && kind != "rb";
            let value = Bytes::copy_from_slice(value.as_bytes());
            is_type.then(|| Change::Set { attribute: kind.to_owned(), value })?
        }
        "del" => Change::Delete,
        _ => return None,
    };
    Some(Row { frame: frame.parse().ok()?, at_ns: (seconds * 1e9) as u64, actor: actor.parse().ok()?, change })
}

fn pack(motion: &[&str; 8]) -> Option<Bytes> {
    let [numbers @ .., sleeping] = motion;
    let mut packed = Vec::with_capacity(29);
    for number in numbers {
        packed.extend_from_slice(&number.parse::<f32>().ok()?.to_le_bytes());
    }
    packed.push(match *sleeping {
        "0" => 0,
        "1" => 1,
        _ => return None,
    });
    Some(packed.into())
}

/// Groups rows by frame and turns them into publications: an iterator of frames, which ends after an error.
pub struct Game<R> {
    rows: R,
    topic: String,
    /// The keys of each actor on the field.
    actors: HashMap<u32, BTreeSet<Bytes>>,
    /// The first row of the next frame.
    next: Option<Row>,
}

impl<R: Iterator<Item = Result<Row, FeedError>>> Game<R> {
    /// The frames of `rows` on `topic`, such as `match/rlcs2`.
    #[must_use]
    pub fn new(topic: &str, rows: R) -> Self {
        Self { rows, topic: topic.to_owned(), actors: HashMap::new(), next: None }
    }

    fn record(&mut self, row: Row, records: &mut Vec<Record>) {
        match row.change {
            Change::Set { attribute, value } => {
                let key = Bytes::from(format!("{}/{attribute}", row.actor));
                self.actors.entry(row.actor).or_default().insert(key.clone());
                records.push(set(key, value));
            }
            Change::Delete => {
                records.extend(self.actors.remove(&row.actor).into_iter().flatten().map(delete));
            }
        }
    }

    fn read(&mut self) -> Result<Option<Frame>, FeedError> {
        let first = match self.next.take() {
            Some(row) => row,
            None => match self.rows.next().transpose()? {
                Some(row) => row,
                None => return Ok(None),
            },
        };
        let (frame, at_ns) = (first.frame, first.at_ns);
        let mut records = Vec::new();
        self.record(first, &mut records);
        // A longer frame is continued as another one, so that memory has its bound.
        for _ in 1..MAX_FRAME_ROWS {
            match self.rows.next().transpose()? {
                Some(row) if row.frame == frame => self.record(row, &mut records),
                next => {
                    self.next = next;
                    break;
                }
            }
        }
        let publications = if records.is_empty() { Vec::new() } else { split(self.topic.clone(), records, false) };
        Ok(Some(Frame { at_ns, publications }))
    }
}

impl<R: Iterator<Item = Result<Row, FeedError>>> Iterator for Game<R> {
    type Item = Result<Frame, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::recorded::recorded;
    use crate::feed::records::tests::{State, apply};
    use std::collections::BTreeMap;
    use std::io::Cursor;

    const ROWS: &str = "\
0,1.5000,new,7,Car,,,,,,,,
0,1.5000,rb,7,,1.50,-2.00,0.00,0.00000,0.00000,0.00000,1.00000,1
0,1.5000,upd,7,Byte:(128),,,,,,,,
0,1.5000,new,8,Ball,,,,,,,,
2,1.6000,upd,7,Byte:(64),,,,,,,,
3,1.7000,del,7,,,,,,,,,
3,1.7000,new,7,Tree,,,,,,,,
4,1.8000,del,9,,,,,,,,,
";

    fn rows(text: &str) -> Rows {
        Rows::new(Lines::new("match.csv", Cursor::new(format!("{HEADER}\n{text}"))))
    }

    #[test]
    fn a_frame_is_published_together_and_a_deleted_actor_takes_its_keys_along() {
        let frames: Vec<_> = Game::new("match/x", rows(ROWS)).collect::<Result<_, _>>().expect("good rows");
        assert_eq!(
            frames.iter().map(|frame| frame.at_ns / 1_000_000).collect::<Vec<_>>(),
            [1_500, 1_600, 1_700, 1_800]
        );
        let records: Vec<_> =
            frames.iter().flat_map(|frame| &frame.publications).map(|it| it.records.clone()).collect();
        let floats = [1.5_f32, -2.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let packed: Vec<u8> = floats.into_iter().flat_map(f32::to_le_bytes).chain([1]).collect();
        let first = vec![set("7/new", "Car"), set("7/rb", packed), set("7/Byte", "(128)"), set("8/new", "Ball")];
        let third = vec![delete("7/Byte"), delete("7/new"), delete("7/rb"), set("7/new", "Tree")];
        assert_eq!(records, [first, vec![set("7/Byte", "(64)")], third]);
        assert!(frames[3].publications.is_empty(), "an actor without keys takes none along");
    }

    #[test]
    fn errors_name_the_line() {
        for bad in [
            "",
            "1,2",
            "1,2,fly,7,x,,,,,,,,",
            "1,2,upd,7,Byte,,,,,,,,",
            "1,2,rb,7,,1,2,3,4,5,6,x,0",
            "1,-2,del,7,,,,,,,,,",
        ] {
            let read: Vec<_> =
                rows(&format!("{}{bad}\n{ROWS}", ROWS.split_inclusive('\n').next().expect("some"))).collect();
            assert_eq!(read.len(), 2, "an error ends it: {bad:?}");
            let error = read[1].as_ref().expect_err("it is bad").to_string();
            assert!(error.starts_with("match.csv, line 3: not a row"), "{error}");
        }
        let error =
            Rows::new(Lines::new("x", Cursor::new("hello\n"))).next().expect("an error").expect_err("no header");
        assert!(error.to_string().starts_with("x, line 1: the first line is not"), "{error}");
    }

    /// The model: what a plain map holds after the rows, by actor and attribute.
    fn model(model: &mut BTreeMap<(u32, String), Bytes>, row: Row) {
        match row.change {
            Change::Set { attribute, value } => {
                model.insert((row.actor, attribute), value);
            }
            Change::Delete => model.retain(|(actor, _), _| *actor != row.actor),
        }
    }

    #[test]
    fn the_recorded_match_is_what_a_plain_map_says_after_every_frame() {
        let file = "game/rocket_league_rlcs2_30hz.csv.gz";
        let path = recorded(file);
        eprintln!("using {}", path.as_ref().map_or("rows of this test".into(), |path| path.display().to_string()));
        let open = || path.as_ref().map_or_else(|| rows(ROWS), |path| Rows::open(path).expect("it is there"));
        let mut source = open().map(|row| row.expect("it is whole")).peekable();
        let (mut state, mut map, mut frames, mut kinds) = (State::new(), BTreeMap::new(), 0, [0; 4]);
        for frame in Game::new("match/rlcs2", open()) {
            for publication in frame.expect("it is whole").publications {
                assert!(publication.records.len() <= 1_024);
                apply(&mut state, &publication);
            }
            frames += 1;
            let number = source.peek().expect("as many frames as rows have").frame;
            while let Some(row) = source.next_if(|row| row.frame == number) {
                kinds[match &row.change {
                    Change::Set { attribute, .. } if attribute == "new" => 0,
                    Change::Delete => 1,
                    Change::Set { attribute, .. } if attribute == "rb" => 2,
                    Change::Set { .. } => 3,
                }] += 1;
                model(&mut map, row);
            }
            let keys =
                map.iter().map(|((actor, attribute), value)| (Bytes::from(format!("{actor}/{attribute}")), value));
            assert!(keys.clone().all(|(key, value)| state.get(&key) == Some(value)), "frame {number}");
            assert_eq!(state.len(), map.len(), "frame {number}");
        }
        assert_eq!(source.next(), None, "every row belongs to a frame");
        if path.is_some() {
            assert_eq!((frames, kinds), (10_557, [3_691, 225, 38_587, 49_514]));
        }
    }
}
