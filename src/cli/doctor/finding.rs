//! What was looked at, what was found, and what to do about it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::Exit;

/// How a subject stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// Worth knowing; nothing to do, or nothing that can be done here.
    Note,
    /// Something should be changed.
    Advice,
    /// The engine does not start, and ends with this code.
    Fatal(Exit),
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Advice => "advice",
            Self::Fatal(_) => "fatal",
        }
    }
}

/// One subject, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// A name that stays the same, for scripts.
    pub(super) subject: &'static str,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    pub(super) advised: String,
    pub(super) why: &'static str,
    /// The command, file or flag that sets it.
    pub(super) how: String,
}

impl Finding {
    fn to_json(&self) -> Value {
        let Self { subject, verdict, found, advised, why, how } = self;
        json!({ "subject": subject, "verdict": verdict.name(), "found": found, "advised": advised, "why": why, "how": how })
    }
}

/// All findings, with the exit code that they come to.
#[derive(Debug)]
pub(super) struct Diagnosis {
    /// Where the threads would run, in words.
    pub(super) placement: String,
    pub(super) findings: Vec<Finding>,
}

impl Diagnosis {
    /// The gravest finding's: the code that the engine would end with, [`Exit::Advised`], or success.
    pub(super) fn exit(&self) -> Exit {
        let fatal = self.findings.iter().find_map(|finding| match finding.verdict {
            Verdict::Fatal(exit) => Some(exit),
            _ => None,
        });
        let is_advised = || self.findings.iter().any(|finding| finding.verdict == Verdict::Advice);
        fatal.unwrap_or_else(|| if is_advised() { Exit::Advised } else { Exit::Success })
    }

    pub(super) fn to_json(&self) -> Value {
        let findings: Vec<_> = self.findings.iter().map(Finding::to_json).collect();
        json!({ "placement": self.placement, "exit_code": self.exit().code(), "findings": findings })
    }

    /// For people, `width` columns wide: one line for each subject, and under what is not fine (or under `all`) what to do.
    pub(super) fn to_text(&self, width: usize, all: bool) -> String {
        let mut text = format!("placement: {}\n\n", self.placement);
        for finding in &self.findings {
            let Finding { subject, verdict, found, advised, why, how } = finding;
            entry(&mut text, width, &format!("{:<7}{subject:<19}", verdict.name()), 26, found);
            if all || !matches!(verdict, Verdict::Fine) {
                for (label, what) in [("advised", advised.as_str()), ("why", why), ("how", how)] {
                    if !what.is_empty() {
                        entry(&mut text, width, &format!("{:26}{label}: ", ""), 35, what);
                    }
                }
            }
        }
        let count = |name| self.findings.iter().filter(|finding| finding.verdict.name() == name).count();
        let (fine, notes, advice, fatal) = (count("fine"), count("note"), count("advice"), count("fatal"));
        let end = match (fatal, advice) {
            (0, 0) => "the engine runs well here",
            (0, _) => "the engine runs, and would run better",
            _ => "the engine does not run here",
        };
        let _ = writeln!(
            text,
            "\n{fine} fine, {notes} noted, {advice} advised, {fatal} fatal: {end} (exit code {})",
            self.exit().code()
        );
        text
    }
}

/// Appends `lead` and `what`, wrapped between words, later lines `indent` columns to the right.
fn entry(text: &mut String, width: usize, lead: &str, indent: usize, what: &str) {
    text.push_str(lead);
    let mut column = lead.chars().count();
    let mut is_first = true;
    for word in what.split_whitespace() {
        let length = word.chars().count();
        if !is_first && column + 1 + length > width {
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        } else if !is_first {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
        is_first = false;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(verdicts: &[Verdict]) -> Diagnosis {
        let finding = |&verdict| Finding {
            subject: "subject",
            verdict,
            found: "one two three".to_owned(),
            advised: "four".to_owned(),
            why: "five",
            how: String::new(),
        };
        Diagnosis { placement: "nowhere".to_owned(), findings: verdicts.iter().map(finding).collect() }
    }

    #[test]
    fn the_gravest_finding_decides_the_exit_code() {
        use Verdict::{Advice, Fatal, Fine, Note};
        for (verdicts, exit) in [
            (&[][..], Exit::Success),
            (&[Fine, Note], Exit::Success),
            (&[Note, Advice, Fine], Exit::Advised),
            (&[Advice, Fatal(Exit::NoIoUring), Fatal(Exit::Configuration)], Exit::NoIoUring),
        ] {
            assert_eq!(diagnosis(verdicts).exit(), exit, "{verdicts:?}");
            assert_eq!(diagnosis(verdicts).to_json()["exit_code"], exit.code());
        }
    }

    #[test]
    fn what_is_fine_is_one_line_unless_all_is_wanted() {
        let advice = diagnosis(&[Verdict::Fine, Verdict::Advice]);
        let text = advice.to_text(36, false);
        let expected = "placement: nowhere\n\n\
                        fine   subject            one two\n                          three\n\
                        advice subject            one two\n                          three\n                          \
                        advised: four\n                          why: five\n\n\
                        1 fine, 0 noted, 1 advised, 0 fatal: the engine runs, and would run better (exit code 9)\n";
        assert_eq!(text, expected);
        assert_eq!(advice.to_text(80, true).matches("advised: four").count(), 2);
    }
}
