//! The documents for people are held to what the code says: examples, tables, names, links.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use support::{end, engine};
use tidegate::cli::Exit;
use tidegate::config::Config;

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the document is there")
}

/// The blocks behind "```LANGUAGE".
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("there is always a first part")).collect()
}

#[test]
fn the_examples_of_configurations_are_valid() {
    let mut count = 0;
    for path in ["README.md", "docs/configuration.md"] {
        for block in blocks(&document(path), "toml").into_iter().filter(|block| !block.starts_with("tidegate = ")) {
            let config = Config::from_sources(Some((Path::new(path), block)), [], &[]);
            assert!(config.is_ok_and(|config| config.classes.len() > 1), "{path}:\n{block}");
            count += 1;
        }
    }
    assert_eq!(count, 2);
}

/// The modules' examples are compiled as doctests.
#[test]
fn the_readme_has_the_examples_of_the_modules() {
    let readme = document("README.md");
    let sources = [("src/client/mod.rs", "//! "), ("src/engine/publisher.rs", "/// ")];
    let examples = blocks(&readme, "rust");
    assert_eq!(examples.len(), sources.len(), "one block of Rust for each");
    for (example, (source, comment)) in examples.into_iter().zip(sources) {
        let module = document(source);
        let (_, doctest) = module.split_once(&format!("{comment}```no_run\n")).expect("the module has an example");
        let doctest: Vec<_> = doctest
            .lines()
            .take_while(|line| *line != format!("{comment}```"))
            .map(|line| line.strip_prefix(comment.trim_end()).expect("a line of documentation").trim_start_matches(' '))
            .filter(|line| !line.starts_with("# "))
            .collect();
        let example: Vec<_> = example.lines().map(str::trim_start).collect();
        assert_eq!(example, doctest, "{source}");
    }
}

#[test]
fn the_readme_has_the_table_of_exit_codes() {
    let readme = document("README.md");
    for exit in Exit::ALL {
        let row = format!("\n| {} | {} |\n", exit.code(), exit.meaning());
        assert!(readme.contains(&row), "the README lacks{row}");
    }
}

#[test]
fn every_metric_is_in_the_page_for_operators_and_no_other() {
    let engine = engine(|_| {});
    let mut stream = TcpStream::connect(engine.admin_addr()).expect("the admin port listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let exported: BTreeSet<_> =
        answer.lines().filter(|line| line.starts_with("tidegate_")).map(|line| name_of(line).to_owned()).collect();
    end(engine);

    let page = document("docs/operations.md");
    let explained: BTreeSet<_> =
        page.match_indices("tidegate_").map(|(at, _)| name_of(&page[at..]).to_owned()).collect();
    assert!(exported.len() > 40, "{exported:?}");
    assert_eq!(explained, exported);
}

/// The name that a line begins with.
fn name_of(line: &str) -> &str {
    let end = line.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(line.len());
    &line[..end]
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "benches/peers/README.md", "examples/browser/README.md"]
            .map(PathBuf::from)
            .into();
    for folder in ["docs", "docs/decisions", "tuning"] {
        let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("it is there");
        let names = entries.map(|entry| entry.expect("it can be listed").file_name());
        documents.extend(
            names
                .map(|name| Path::new(folder).join(name))
                .filter(|path| path.extension().is_some_and(|end| end == "md")),
        );
    }
    let mut count = 0;
    for path in documents {
        let text = document(path.to_str().expect("ASCII"));
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().expect("there is always a first part");
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().expect("a file").join(file) };
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists(), "{}: {target}", path.display());
            if !anchor.is_empty() {
                let text = document(file.to_str().expect("ASCII"));
                let headings = text.lines().filter(|line| line.starts_with('#')).map(anchor_of);
                assert!(headings.into_iter().any(|heading| heading == anchor), "{}: {target}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "only {count} links were found");
}

/// As forges make it of a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            _ if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}
