use clap::Parser as _;
use serde_json::json;

use super::*;

#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    args: PubArgs,
}

fn args(arguments: &[&str]) -> PubArgs {
    Command::try_parse_from([&["pub", "topic"], arguments].concat()).expect("valid arguments").args
}

fn lines(input: &str) -> Vec<Result<Record, (u64, String)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut lines = Lines { input: input.as_bytes(), buffer: Vec::new(), number: 0 };
        let mut all = Vec::new();
        while let Some(line) = lines.next(&args(&["-"])).await.transpose() {
            all.push(line.map_err(|failure| match failure.kind {
                FailureKind::BadInput { line } => (line, failure.sentence),
                kind => panic!("{kind:?}"),
            }));
        }
        all
    })
}

#[test]
fn arguments_become_records() {
    let records = records_of(&args(&["a=1", "b=x=y", "--event", "e", "--delete", "c", "--priority", "high"]));
    let high = |record: Record| record.with_priority(Priority::High);
    let expected =
        [Record::state("a", "1"), Record::state("b", "x=y"), Record::event("e"), Record::delete("c")].map(high);
    assert_eq!(records.expect("valid records"), expected);
    for wrong in ["novalue", "=v"] {
        let failure = records_of(&args(&[wrong])).expect_err("no KEY=VALUE");
        assert_eq!(failure.kind, FailureKind::BadArgument);
    }
    assert!(Command::try_parse_from(["pub", "topic"]).is_err(), "nothing to publish");
}

#[test]
fn lines_of_json_become_records() {
    let input = "{\"key\":\"k\",\"value\":\"v\",\"priority\":\"critical\",\"window_ms\":5}\n\n{\"value\":\"e\"}\r\n\
                 {\"key\":\"k\",\"delete\":true}";
    let records: Vec<Record> = lines(input).into_iter().map(|line| line.expect("a valid line")).collect();
    let first = Record::state("k", "v").with_priority(Priority::Critical).with_window_ms(5);
    assert_eq!(records, [first, Record::event("e"), Record::delete("k")]);
}

#[test]
fn a_wrong_line_is_named() {
    let wrong = [
        ("nonsense", "expected ident"),
        (r#"{"key":"k"}"#, "neither value nor delete"),
        (r#"{"delete":true}"#, "only a key"),
        (r#"{"key":"k","value":"v","delete":true}"#, "both"),
        (r#"{"key":"","value":"v"}"#, "empty"),
        (r#"{"value":1}"#, "invalid type"),
        (r#"{"colour":"red"}"#, "unknown field"),
        (r#"{"value":"v","priority":"urgent"}"#, "unknown variant"),
        (&format!(r#"{{"value":"{}"}}"#, "x".repeat(200_000)), "longer than"),
    ];
    for (line, reason) in wrong {
        let results = lines(&format!("{}\n\n{line}", json!({ "value": "fine" })));
        let (number, sentence) = results[1].clone().expect_err(line);
        assert_eq!(number, 3, "{sentence}");
        assert!(sentence.starts_with("line 3: ") && sentence.contains(reason), "{sentence}");
    }
}
