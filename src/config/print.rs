//! The configuration for people: as TOML that loads back equal, and as the list of limits that `--check` prints.

use std::fmt::{self, Write as _};

use super::Config;
use super::settings::{CLASS, LIMITS, Setting, TOP};
use crate::limits;

impl Config {
    /// The effective configuration as TOML, with every setting explained. Loading it gives an equal one.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write_toml(&mut text).expect("writing into a string cannot fail");
        text
    }

    /// Every limit with its value, its unit and what happens beyond it, one a line.
    #[must_use]
    pub fn explained_limits(&self) -> String {
        let mut text = String::new();
        self.write_limits(&mut text).expect("writing into a string cannot fail");
        text
    }

    fn write_toml(&self, out: &mut String) -> fmt::Result {
        write_settings(out, TOP, self, "; ")?;
        writeln!(out, "\n[limits]")?;
        write_settings(out, LIMITS, &self.limits, BEYOND)?;
        for class in &self.classes {
            writeln!(out, "\n[[class]]")?;
            write_settings(out, CLASS, class, BEYOND)?;
        }
        Ok(())
    }

    fn write_limits(&self, out: &mut String) -> fmt::Result {
        let fixed = FIXED.iter().map(|(name, value, unit, beyond)| (*name, value.to_string(), *unit, *beyond));
        write_table(out, "settings of [limits]", &rows(LIMITS, &self.limits))?;
        for class in &self.classes {
            // The other settings of a class are no limits.
            let limits: Vec<_> = rows(CLASS, class).into_iter().filter(|(_, _, unit, _)| !unit.is_empty()).collect();
            write_table(out, &format!("\ntopic class \"{}\" ({})", class.name, class.pattern), &limits)?;
        }
        write_table(out, "\nfixed", &fixed.collect::<Vec<_>>())
    }
}

/// Limits that are no settings.
pub(super) const FIXED: &[(&str, u64, &str, &str)] = &[
    (
        "TURN_BYTES_PER_CONNECTION",
        limits::TURN_BYTES_PER_CONNECTION as u64,
        "bytes of patches for a connection in a turn",
        "the rest next turn",
    ),
    (
        "PATCH_BYTES",
        limits::PATCH_BYTES as u64,
        "bytes of a patch frame",
        "unless one record is larger: the rest follows, with `more`",
    ),
    ("SENDS_PER_TURN", limits::SENDS_PER_TURN as u64, "connections sent to in a turn", "the rest next turn, first"),
    (
        "COMPLETIONS_PER_TURN",
        limits::COMPLETIONS_PER_TURN as u64,
        "completions looked at before a flush",
        "the rest next turn",
    ),
    ("WINDOW_MIN_BYTES", limits::WINDOW_MIN_BYTES, "bytes in flight at least", "the window shrinks no further"),
    ("WINDOW_INITIAL_BYTES", limits::WINDOW_INITIAL_BYTES, "bytes in flight to a new connection", "the cursor waits"),
    ("WINDOW_MAX_BYTES", limits::WINDOW_MAX_BYTES, "bytes in flight at most", "the cursor waits"),
    (
        "NOTSENT_LOWAT_BYTES",
        limits::NOTSENT_LOWAT_BYTES as u64,
        "unsent bytes in the kernel per connection",
        "the cursor waits",
    ),
    (
        "TOMBSTONES_BEYOND_KEYS",
        limits::TOMBSTONES_BEYOND_KEYS as u64,
        "tombstones more than live keys",
        "the oldest go: cursors before them start anew",
    ),
    ("NAME_SEGMENTS", limits::NAME_SEGMENTS as u64, "segments of a topic's name", "error INVALID"),
    ("NAME_BYTES", limits::NAME_BYTES as u64, "bytes of a topic's name", "error INVALID"),
];

/// Stands between a limit's unit and what happens when it is hit.
const BEYOND: &str = "; beyond: ";

type Row = (&'static str, String, &'static str, &'static str);

fn rows<T>(table: &[Setting<T>], owner: &T) -> Vec<Row> {
    let row = |setting: &Setting<T>| Some((setting.key, (setting.print)(owner)?, setting.unit, setting.note));
    table.iter().filter_map(row).collect()
}

fn write_table(out: &mut String, title: &str, rows: &[Row]) -> fmt::Result {
    writeln!(out, "{title}:")?;
    let width = |cell: fn(&Row) -> usize| rows.iter().map(cell).max().unwrap_or(0);
    let (name_width, value_width) = (width(|row| row.0.len()), width(|row| row.1.len()));
    let unit_width = width(|row| row.2.len());
    for (name, value, unit, beyond) in rows {
        writeln!(out, "  {name:name_width$}  {value:>value_width$} {unit:unit_width$}  beyond: {beyond}")?;
    }
    Ok(())
}

fn write_settings<T>(out: &mut String, table: &[Setting<T>], owner: &T, between: &str) -> fmt::Result {
    for Setting { key, unit, note, print, .. } in table {
        let between = if unit.is_empty() { "" } else { between };
        match print(owner) {
            Some(value) => writeln!(out, "{key} = {value}  # {unit}{between}{note}")?,
            None => writeln!(out, "# {key} is not set  # {note}")?,
        }
    }
    Ok(())
}
