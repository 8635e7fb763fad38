//! What is wrong on the command line or around it: told at once, with the code of the table, and nothing is started.

use crate::{refused, run, tidegate};

/// Ends with 2, by what the parser of the command line says, which is returned.
fn wrong_usage(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty());
    error
}

#[test]
fn seconds_that_no_clock_can_wait_for_are_wrong_usage() {
    let options = [
        ("demo", "--seconds"),
        ("sub a", "--seconds"),
        ("bench fanout", "--seconds"),
        ("bench fanout", "--warm-up"),
        ("bench slow", "--warm-up"),
        ("bench mesh", "--seconds"),
        ("bench mesh", "--warm-up"),
        ("bench ingest", "--seconds"),
        ("bench idle", "--settle"),
        ("bench storm", "--away"),
        ("bench depth", "--seconds"),
        ("bench depth", "--warm-up"),
    ];
    for (command, option) in options {
        for value in ["-1", "nan", "inf", "1e300"] {
            let given = format!("{option}={value}");
            let error = wrong_usage(&command.split(' ').chain([&*given]).collect::<Vec<_>>());
            assert!(error.contains(option) && error.contains("a number from 0 to 1000000000"), "{command} {error}");
        }
    }
}
