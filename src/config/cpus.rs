//! Lists of CPUs, as `taskset` and the kernel write them: `0-3,6`.

use std::fmt;
use std::str::FromStr;

/// The highest CPU that a thread can be pinned to: `cpu_set_t` of `sched_setaffinity(2)` has 1,024 bits.
const CPU_MAX: usize = 1_023;

/// A set of CPUs, ascending; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet(Vec<usize>);

impl CpuSet {
    /// The CPUs' numbers, ascending, each once.
    #[must_use]
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

/// Why a text is no set of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected CPUs such as \"0-3,6\", each from 0 to {CPU_MAX}")]
pub struct CpuSetError;

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let number = |text: &str| text.parse().ok().filter(|&cpu: &usize| cpu <= CPU_MAX).ok_or(CpuSetError);
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(CpuSetError);
            }
            cpus.extend(first..=last);
            // Before the next range, so that repeated ranges do not add up.
            cpus.sort_unstable();
            cpus.dedup();
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let (first, last) = (run[0], run[run.len() - 1]);
            let comma = if index == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_written_back() {
        for (text, cpus, again) in [
            ("0", vec![0], "0"),
            ("0-3,6", vec![0, 1, 2, 3, 6], "0-3,6"),
            (" 6, 2-3 ,3-4", vec![2, 3, 4, 6], "2-4,6"),
            ("1023", vec![1_023], "1023"),
        ] {
            let set: CpuSet = text.parse().expect("a valid set");
            assert_eq!(set.as_slice(), cpus);
            assert_eq!(set.to_string(), again);
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", ",", "3-1", "1-", "-1", "a", "1024", "0-99999999999", "1,,2", "0x1"] {
            assert_eq!(text.parse::<CpuSet>(), Err(CpuSetError), "{text:?}");
        }
    }
}
