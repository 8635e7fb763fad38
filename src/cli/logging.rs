//! Logs go to standard error: one record, one line.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

use super::exit::{CliError, Exit};

/// The variable that filters logs, such as `debug` or `tidegate::control=debug,warn`.
pub const VARIABLE: &str = "TIDEGATE_LOG";

/// Starts logging for the whole process.
///
/// # Errors
/// If the filter in `TIDEGATE_LOG` is none.
pub fn start() -> Result<(), CliError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) => EnvFilter::try_new(&filter).map_err(|error| {
            let text = format!(
                "variable {VARIABLE}: \"{}\" is no filter such as \"info\" or \"tidegate=debug,warn\": {error}",
                filter.escape_debug()
            );
            CliError::new(Exit::Configuration, text)
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    // Colours are control characters, too.
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Escaping(io::stderr()));
    subscriber.try_init().map_err(|error| CliError::new(Exit::Failure, error))
}

/// Writes each record, which comes in one piece, as one line: what clients sent must not forge another, nor steer a terminal.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.write_all(&escaped(record)).map(|()| record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// `record` with every control character escaped but the newline at its end.
fn escaped(record: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(record);
    let (line, newline) = text.strip_suffix('\n').map_or((text.as_ref(), ""), |line| (line, "\n"));
    let mut out = String::with_capacity(text.len());
    for character in line.chars() {
        // Beside control characters: line separators, and what reorders text on the screen.
        let is_deceptive =
            matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || is_deceptive {
            out.extend(character.escape_default())
        } else {
            out.push(character)
        }
    }
    out.push_str(newline);
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics while it writes").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Escaping<Self>;

        fn make_writer(&'a self) -> Self::Writer {
            Escaping(self.clone())
        }
    }

    #[test]
    fn one_record_is_one_line_whatever_clients_sent() {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(sink.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for hostile in
                ["a\nERROR forged", "a\r\nb", "\u{1b}[2J", "\u{9b}31m", "\0\t\u{7f}", "\u{202e}abc", "\u{2028}"]
            {
                tracing::info!(agent = %hostile, "said: {hostile}");
            }
        });
        let written = String::from_utf8(sink.0.lock().expect("no test panics while it writes").clone()).expect("text");
        assert_eq!(written.lines().count(), 7, "{written}");
        assert!(written.chars().all(|character| character == '\n' || !character.is_control()), "{written:?}");
        assert!(!written.contains('\u{202e}') && !written.contains('\u{2028}'), "{written:?}");
    }

    #[test]
    fn harmless_text_stays_as_it_is() {
        assert_eq!(escaped("größe=5 \"x\" \\n\n".as_bytes()), "größe=5 \"x\" \\n\n".as_bytes());
        assert_eq!(escaped(b"\xff\n"), "\u{fffd}\n".as_bytes());
    }
}
