//! Lines of a recorded file, gzipped or plain, one at a time; whatever is wrong is told with file and line.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// Bytes of one line. The snapshots of recorded depth captures have about 70,000.
pub const LINE_BYTES: usize = 1024 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a recorded file could not be read on.
#[derive(Debug, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct FeedError {
    /// The file, as it was named to us.
    pub file: String,
    /// From 1; 0 if the file could not even be opened.
    pub line: u64,
    /// What is wrong there.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file could not be opened or read, or its compression is damaged.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The line is no text of at most [`LINE_BYTES`], or does not say what such a line must say.
    #[error("{0}")]
    Malformed(String),
}

/// A file's lines, with the number of the one that was read last.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    file: String,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens a file; that it is gzipped is seen by its first bytes, not by its name.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        let file = path.display().to_string();
        let opened = File::open(path).map(BufReader::new).and_then(|mut plain| {
            let is_gzip = plain.fill_buf()?.starts_with(&GZIP_MAGIC);
            Ok(if is_gzip {
                Self::new(&file, BufReader::new(MultiGzDecoder::new(plain)))
            } else {
                Self::new(&file, plain)
            })
        });
        opened.map_err(|error| FeedError { file, line: 0, problem: error.into() })
    }

    /// Lines of `reader`, which errors will call `file`.
    #[must_use]
    pub fn new(file: &str, reader: impl BufRead + Send + 'static) -> Self {
        Self { reader: Box::new(reader), file: file.to_owned(), line: 0, buffer: Vec::new() }
    }

    /// The next line without its end, or `None` after the last.
    ///
    /// # Errors
    ///
    /// Reading fails, or the line is too long or not UTF-8.
    pub fn next_line(&mut self) -> Result<Option<&str>, FeedError> {
        self.buffer.clear();
        self.line += 1;
        let limit = LINE_BYTES as u64 + 1;
        if let Err(error) = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer) {
            return Err(self.error(error.into()));
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if self.buffer.len() > LINE_BYTES {
            return Err(self.error(Problem::Malformed(format!("longer than {LINE_BYTES} bytes"))));
        }
        if std::str::from_utf8(&self.buffer).is_err() {
            return Err(self.error(Problem::Malformed("not UTF-8".to_owned())));
        }
        Ok(Some(std::str::from_utf8(&self.buffer).expect("checked above").trim_end_matches('\r')))
    }

    /// `problem`, at the line that was read last.
    #[must_use]
    pub fn error(&self, problem: Problem) -> FeedError {
        FeedError { file: self.file.clone(), line: self.line, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{Cursor, Write};

    fn all(mut lines: Lines) -> Result<Vec<String>, FeedError> {
        let mut read = Vec::new();
        while let Some(line) = lines.next_line()? {
            read.push(line.to_owned());
        }
        Ok(read)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    /// A file that is removed at the end of its test.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("tidegate-lines-{}-{name}", std::process::id()));
            std::fs::write(&path, bytes).expect("the temporary directory is writable");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn gzipped_and_plain_files_read_the_same() {
        let text = "one\ntwo\r\n\nfour";
        // Two members one behind the other are one file (RFC 1952, section 2.2).
        let (head, tail) = text.split_at(5);
        let files = [text.as_bytes().to_vec(), gzip(text), [gzip(head), gzip(tail)].concat()];
        for (index, bytes) in files.iter().enumerate() {
            let scratch = Scratch::new(&format!("same-{index}"), bytes);
            let lines = all(Lines::open(&scratch.0).expect("it exists")).expect("it is whole");
            assert_eq!(lines, ["one", "two", "", "four"]);
        }
    }

    #[test]
    fn a_torn_archive_is_an_error_and_not_an_end() {
        let bytes = gzip(&"line of text\n".repeat(1_000));
        let scratch = Scratch::new("torn", &bytes[..bytes.len() - 6]);
        let error = all(Lines::open(&scratch.0).expect("it exists")).expect_err("it is torn");
        assert!(matches!(error.problem, Problem::Io(_)), "{error}");
    }

    #[test]
    fn errors_name_file_and_line() {
        let missing = Lines::open(Path::new("no/such/file")).map(|_| ()).expect_err("it does not exist");
        assert!(missing.to_string().starts_with("no/such/file, line 0: cannot read: "), "{missing}");
        let binary = all(Lines::new("x.gz", Cursor::new(b"a\nb\n\xff\n".to_vec()))).expect_err("not UTF-8");
        assert_eq!(binary.to_string(), "x.gz, line 3: not UTF-8");
    }

    #[test]
    fn a_line_has_a_limit() {
        let fits = format!("{}\nrest", "x".repeat(LINE_BYTES));
        assert_eq!(all(Lines::new("x", Cursor::new(fits))).expect("it fits").len(), 2);
        let long = format!("a\n{}", "x".repeat(LINE_BYTES + 1));
        let error = all(Lines::new("x", Cursor::new(long))).expect_err("one byte too long");
        assert_eq!(error.to_string(), "x, line 2: longer than 1048576 bytes");
    }
}
