//! One value as it was given, and its reading as what the setting wants.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::Problem;

/// A value as it was given.
pub(super) enum Value<'a> {
    /// In the file: it has a type.
    Toml(&'a DeValue<'a>),
    /// In a variable or flag: it is what it is read as; lists are separated by commas.
    Written(&'a str),
}

impl Value<'_> {
    /// Reads a whole number within `range`.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, Problem> {
        let number = match self {
            Self::Toml(DeValue::Integer(integer)) => integer_value(integer),
            Self::Written(text) => text.trim().parse::<i128>().ok(),
            Self::Toml(_) => None,
        };
        let number = number.ok_or_else(|| self.type_problem("a whole number"))?;
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(Problem::Range { value: number, least: *range.start(), most: *range.end() }),
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        match self {
            Self::Toml(DeValue::Boolean(boolean)) => Ok(*boolean),
            Self::Written("true") => Ok(true),
            Self::Written("false") => Ok(false),
            _ => Err(self.type_problem("true or false")),
        }
    }

    /// Reads a text.
    pub(super) fn text(&self) -> Result<&str, Problem> {
        match self {
            Self::Toml(DeValue::String(text)) => Ok(text),
            Self::Written(text) => Ok(text),
            Self::Toml(_) => Err(self.type_problem("a string")),
        }
    }

    /// Reads a text that has a form of its own, such as an address; `expected` names it.
    pub(super) fn parsed<T: FromStr>(&self, expected: &'static str) -> Result<T, Problem> {
        let text = self.text()?;
        text.parse().map_err(|_| Problem::Word { expected, found: text.to_owned() })
    }

    /// Reads a list of texts.
    pub(super) fn list(&self) -> Result<Vec<String>, Problem> {
        match self {
            Self::Toml(DeValue::Array(array)) => {
                array.iter().map(|item| Value::Toml(item.get_ref()).text().map(str::to_owned)).collect()
            }
            Self::Toml(_) => Err(self.type_problem("a list of strings")),
            Self::Written("") => Ok(Vec::new()),
            Self::Written(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
        }
    }

    fn type_problem(&self, expected: &'static str) -> Problem {
        let found = match self {
            Self::Toml(DeValue::String(text)) => format!("the string {}", quoted(text)),
            Self::Toml(value) => format!("a value of type {}", value.type_str()),
            Self::Written(text) => quoted(text),
        };
        Problem::Type { expected, found }
    }
}

/// TOML integers may be written with underscores (which the parser takes out) and in other bases.
fn integer_value(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// `text` as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A field that is set by a whole number: a count, an amount of bytes, a time in milliseconds.
pub(super) trait Amount {
    /// The number that is written for it.
    fn number(&self) -> u64;
    /// Sets it. The number is within the setting's range, which fits the type.
    fn set(&mut self, number: u64);
}

impl Amount for usize {
    fn number(&self) -> u64 {
        *self as u64
    }

    fn set(&mut self, number: u64) {
        *self = Self::try_from(number).expect("the setting's range fits");
    }
}

impl Amount for u32 {
    fn number(&self) -> u64 {
        u64::from(*self)
    }

    fn set(&mut self, number: u64) {
        *self = Self::try_from(number).expect("the setting's range fits");
    }
}

/// In milliseconds.
impl Amount for Duration {
    fn number(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }

    fn set(&mut self, number: u64) {
        *self = Self::from_millis(number);
    }
}

/// In milliseconds; 0 is none.
impl Amount for Option<Duration> {
    fn number(&self) -> u64 {
        self.as_ref().map_or(0, Amount::number)
    }

    fn set(&mut self, number: u64) {
        *self = (number > 0).then(|| Duration::from_millis(number));
    }
}
