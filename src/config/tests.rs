//! Settings from every source, what is refused and in which words, and the way back to TOML.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::print::FIXED;
use super::settings::{CLASS, LIMITS, TOP};
use super::*;
use crate::topic::{Pattern, Priority};

fn load(toml: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_sources(Some((Path::new("t.toml"), toml)), variables, flags)
}

fn flag(flag: &'static str, key: &'static str, value: &str) -> Flag {
    Flag { flag, key, value: value.to_owned() }
}

fn message(toml: &str) -> String {
    load(toml, &[], &[]).expect_err("a wrong configuration").to_string()
}

const EVERYTHING: &str = r#"
listen = "127.0.0.1:1"
admin = "[::1]:2"
shards = 3
cpus = "0-3,6"
idle = "spin"
insecure = true
allowed_origins = ["https://example.com", "http://localhost:3000"]
trusted = ["10.0.0.0/8"]
drain_ms = 1_500

[limits]
message_bytes = 0x20000
heartbeat_interval_ms = 1000

[[class]]
name = "depth"
pattern = "depth/**"
priority = "high"
event_window_ms = 50
linger_ms = 7

[[class]]
name = "chat"
pattern = "chat/**"
"#;

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(load("", &[], &[]), Ok(Config::default()));
    assert_eq!(Config::load(None, [], &[]), Ok(Config::default()));
}

#[test]
fn a_file_sets_everything() {
    let config = load(EVERYTHING, &[], &[]).expect("valid");
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 1)));
    assert_eq!(config.admin, "[::1]:2".parse().expect("an address"));
    assert_eq!(config.shards, Shards::Count(3));
    assert_eq!(config.cpus.as_ref().map(CpuSet::as_slice), Some([0, 1, 2, 3, 6].as_slice()));
    assert_eq!(config.idle, Idle::Spin);
    assert!(config.insecure);
    assert_eq!(
        config.allowed_origins.as_deref(),
        Some(["https://example.com".to_owned(), "http://localhost:3000".to_owned()].as_slice())
    );
    assert_eq!(config.trusted, ["10.0.0.0/8".parse().expect("a network")]);
    assert_eq!(config.drain, Duration::from_millis(1_500));
    assert_eq!(config.limits.message_bytes, 0x2_0000);
    assert_eq!(config.limits.heartbeat_interval, Duration::from_secs(1));
    let names: Vec<_> = config.classes.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(names, ["depth", "chat", "default"]);
    let depth = &config.classes[0];
    assert_eq!((depth.priority, depth.event_window), (Priority::High, Some(Duration::from_millis(50))));
    assert_eq!(depth.linger, Duration::from_millis(7));
    assert_eq!(depth.events, TopicClass::catch_all().events);
    assert_eq!(config.classes[2], TopicClass::catch_all());
}

#[test]
fn later_sources_win() {
    let toml = "listen = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n[limits]\ntopics = 10\n";
    let variables = [
        ("TIDEGATE_LISTEN", "127.0.0.1:11"),
        ("TIDEGATE_ADMIN", "127.0.0.1:12"),
        ("TIDEGATE_LIMITS_TOPICS", "20"),
        ("HOME", "/"),
    ];
    let config = load(toml, &variables, &[flag("--listen", "listen", "127.0.0.1:21")]).expect("valid");
    assert_eq!((config.listen.port(), config.admin.port(), config.limits.topics), (21, 12, 20));
}

#[test]
fn variables_are_read_as_what_the_setting_is() {
    let variables = [
        ("TIDEGATE_SHARDS", "2"),
        ("TIDEGATE_INSECURE", "true"),
        ("TIDEGATE_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("TIDEGATE_TRUSTED", ""),
        ("TIDEGATE_CPUS", "1,4"),
        ("TIDEGATE_DRAIN_MS", "5"),
    ];
    let config = load("", &variables, &[]).expect("valid");
    assert_eq!(config.shards, Shards::Count(2));
    assert!(config.insecure && config.trusted.is_empty());
    assert_eq!(config.allowed_origins.map(|origins| origins.len()), Some(2));
    assert_eq!((config.cpus.expect("given").as_slice(), config.drain), ([1, 4].as_slice(), Duration::from_millis(5)));
    assert_eq!(load("shards = 2", &[("TIDEGATE_SHARDS", "auto")], &[]).expect("valid").shards, Shards::Auto);
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let others = [
        "TIDEGATE_LOG",
        "TIDEGATE_CONFIG",
        "TIDEGATE_PORT",
        "TIDEGATE_PORT_8433_TCP_ADDR",
        "TIDEGATE_SERVICE_HOST",
        "XTIDEGATE_LISTEN",
    ];
    assert_eq!(load("", &others.map(|name| (name, "x")), &[]), Ok(Config::default()));
}

#[test]
fn mistakes_in_the_file_are_named_with_line_and_key() {
    for (toml, expected) in [
        ("\n\nlisten_ = \"x\"", "t.toml:3: `listen_`: unknown setting; did you mean `listen`?"),
        ("zzz = 1", "t.toml:1: `zzz`: unknown setting"),
        ("message_bytes = 1", "t.toml:1: `message_bytes`: unknown setting; did you mean `limits.message_bytes`?"),
        ("[limit]\n", "t.toml:1: `limit`: unknown setting; did you mean `limits`?"),
        (
            "[limits]\n\nmesage_bytes = 1",
            "t.toml:3: `limits.mesage_bytes`: unknown setting; did you mean `limits.message_bytes`?",
        ),
        (
            "[limits]\nhead_time = 1",
            "t.toml:2: `limits.head_time`: unknown setting; did you mean `limits.head_time_ms`?",
        ),
        (
            "[[class]]\nname = \"a\"\npattern = \"a\"\nlinger = 1",
            "t.toml:4: `class.linger`: unknown setting; did you mean `linger_ms`?",
        ),
        ("listen = 8433", "t.toml:1: `listen`: expected a string, found a value of type integer"),
        (
            "listen = \"8433\"",
            "t.toml:1: `listen`: expected an address with a port, such as \"127.0.0.1:8433\", found \"8433\"",
        ),
        ("insecure = \"yes\"", "t.toml:1: `insecure`: expected true or false, found the string \"yes\""),
        ("idle = \"sleep\"", "t.toml:1: `idle`: expected \"park\" or \"spin\", found \"sleep\""),
        ("shards = \"some\"", "t.toml:1: `shards`: expected \"auto\" or a number, found \"some\""),
        ("shards = 0", "t.toml:1: `shards`: 0 is not between 1 and 256"),
        ("shards = true", "t.toml:1: `shards`: expected a whole number, found a value of type boolean"),
        ("cpus = \"3-1\"", "t.toml:1: `cpus`: expected CPUs such as \"0-3,6\", each from 0 to 1023"),
        (
            "trusted = [\"10.1.0.0/8\"]",
            "t.toml:1: `trusted`: the address has bits beyond its prefix; did you mean \"10.0.0.0/8\"?",
        ),
        ("trusted = \"::1\"", "t.toml:1: `trusted`: expected a list of strings, found the string \"::1\""),
        ("trusted = [1]", "t.toml:1: `trusted`: expected a string, found a value of type integer"),
        ("[limits]\ntopics = -1", "t.toml:2: `limits.topics`: -1 is not between 1 and 16777216"),
        ("[limits]\ntopics = 0", "t.toml:2: `limits.topics`: 0 is not between 1 and 16777216"),
        ("[limits]\nkey_bytes = 256", "t.toml:2: `limits.key_bytes`: 256 is not between 1 and 255"),
        ("[limits]\ntopics = 1.5", "t.toml:2: `limits.topics`: expected a whole number, found a value of type float"),
        (
            "[limits]\ntopics = \"many\"",
            "t.toml:2: `limits.topics`: expected a whole number, found the string \"many\"",
        ),
        ("limits = 3", "t.toml:1: `limits`: expected a [limits] table, found a value of type integer"),
        ("[class]\nname = \"a\"", "t.toml:1: `class`: expected [[class]] tables, found a value of type table"),
        ("[[class]]\nname = \"a\"", "t.toml:1: `class`: this class has no `pattern`"),
        ("[[class]]\npattern = \"a\"", "t.toml:1: `class`: this class has no `name`"),
        ("[[class]]\nname = \"A b\"", "t.toml:2: `class.name`: expected 1 to 64 of a-z 0-9 _ -, found \"A b\""),
        (
            "[[class]]\nname = \"a\"\npriority = \"top\"",
            "t.toml:3: `class.priority`: expected \"low\", \"normal\", \"high\" or \"critical\", found \"top\"",
        ),
    ] {
        assert_eq!(message(toml), expected, "{toml:?}");
    }
    for (toml, start) in [
        ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n", "t.toml:2: not valid TOML: duplicate key"),
        ("\n[limits\n", "t.toml:2: not valid TOML: "),
        ("[[class]]\nname = \"a\"\npattern = \"\"", "t.toml:3: `class.pattern`: not a topic pattern: "),
    ] {
        assert!(message(toml).starts_with(start), "{}", message(toml));
    }
}

#[test]
fn origins_that_no_browser_would_send_are_refused() {
    for origin in [
        "*",
        "null",
        "example.com",
        "https://example.com/",
        "https://Example.com",
        "https://a b",
        "://x",
        "https://",
        "https://*.example.com",
    ] {
        let text = message(&format!("allowed_origins = [\"https://good.example\", \"{origin}\"]"));
        assert!(
            text.starts_with("t.toml:1: `allowed_origins`: expected origins such as") && text.contains(origin),
            "{text}"
        );
    }
}

#[test]
fn mistakes_in_variables_and_flags_are_named() {
    let by_variable = |name, value| load("", &[(name, value)], &[]).expect_err("wrong").to_string();
    assert_eq!(
        by_variable("TIDEGATE_LIMITS_TOPICS", "x"),
        "variable TIDEGATE_LIMITS_TOPICS: `limits.topics`: expected a whole number, found \"x\""
    );
    assert_eq!(
        by_variable("TIDEGATE_LIMIT_TOPICS", "1"),
        "variable TIDEGATE_LIMIT_TOPICS: `limit_topics`: unknown setting; did you mean `TIDEGATE_LIMITS_TOPICS`?"
    );
    let by_flag = load("", &[], &[flag("--shards", "shards", "257")]).expect_err("wrong").to_string();
    assert_eq!(by_flag, "--shards: 257 is not between 1 and 256");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/t.toml")), [], &[]).expect_err("no such file");
    assert!(error.to_string().starts_with("/nonexistent/t.toml: cannot read the file: "), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_refused_where_they_were_given() {
    for (toml, start) in [
        ("\nlisten = \"0.0.0.0:1\"", "t.toml:2: `listen`: 0.0.0.0:1 can be reached from other machines"),
        ("admin = \"192.0.2.1:1\"", "t.toml:1: `admin`: 192.0.2.1:1 can be reached from other machines"),
        ("\nadmin = \"127.0.0.1:8433\"", "t.toml:2: `admin`: `listen` and `admin` are both 127.0.0.1:8433"),
        ("shards = 3\ncpus = \"0,1\"", "t.toml:1: `shards`: 3 shards cannot each have one of the CPUs 0-1"),
        (
            "[limits]\nmessage_bytes = 16384",
            "t.toml:2: `limits.message_bytes`: `limits.value_bytes` (16384) must be less",
        ),
        ("[limits]\nvalue_bytes = 99999", "t.toml:2: `limits.value_bytes`: `limits.value_bytes` (99999) must be less"),
        (
            "[limits]\nvalue_bytes = 9\nmessage_bytes = 255",
            "t.toml:3: `limits.message_bytes`: `limits.key_bytes` (255) must be less",
        ),
        (
            "[limits]\nstall_timeout_ms = 9999",
            "t.toml:2: `limits.stall_timeout_ms`: `limits.stall_timeout_ms` (9999) must not",
        ),
        (
            "[[class]]\nname = \"a\"\npattern = \"a\"\n[[class]]\nname = \"a\"\npattern = \"b\"",
            "t.toml:4: `class`: there is another class named \"a\"",
        ),
        (
            "[[class]]\nname = \"a\"\npattern = \"**\"\n[[class]]\nname = \"b\"\npattern = \"b\"",
            "t.toml:4: `class`: no topic can be of class \"b\", since \"a\" before it matches all",
        ),
        ("[[class]]\nname = \"default\"\npattern = \"a\"", "t.toml:1: `class`: the name \"default\" is kept"),
    ] {
        assert!(message(toml).starts_with(start), "{}", message(toml));
    }
    let classes: String =
        (0..64).map(|index| format!("[[class]]\nname = \"c{index}\"\npattern = \"c{index}\"\n")).collect();
    assert!(message(&classes).contains("more than 63 classes"), "{}", message(&classes));
}

#[test]
fn what_is_secure_or_said_to_be_may_listen() {
    for toml in [
        "listen = \"[::1]:1\"",
        "listen = \"127.9.9.9:1\"",
        "listen = \"[::ffff:127.0.0.1]:1\"",
        "listen = \"0.0.0.0:1\"\nadmin = \"0.0.0.0:2\"\ninsecure = true",
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"",
    ] {
        load(toml, &[], &[]).expect(toml);
    }
    load("listen = \"0.0.0.0:1\"", &[], &[flag("--insecure", "insecure", "true")]).expect("said to be");
}

#[test]
fn a_class_of_all_topics_takes_the_place_of_the_default() {
    let config = load("[[class]]\nname = \"default\"\npattern = \"**\"\nevents = 5", &[], &[]).expect("valid");
    assert_eq!((config.classes.len(), config.classes[0].events), (1, 5));
}

#[test]
fn what_is_printed_loads_back_equal() {
    for toml in ["", EVERYTHING, "allowed_origins = []\ntrusted = []"] {
        let config = load(toml, &[], &[]).expect("valid");
        let printed = config.to_toml();
        assert_eq!(load(&printed, &[], &[]), Ok(config), "{printed}");
    }
}

/// Sets every number to another value, so that a row that reads one field and writes another is found.
#[test]
fn every_number_comes_back_from_its_own_row() {
    let mut toml = String::from("[limits]\n");
    for (index, setting) in LIMITS.iter().enumerate() {
        // Falling, so that the limits fit each other; within every range.
        toml += &format!("{} = {}\n", setting.key, 255 - index);
    }
    toml = toml.replace("head_bytes = 252", "head_bytes = 1252").replace("kind_runs = 231", "kind_runs = 1231");
    toml = toml.replace("message_bytes = 255", "message_bytes = 1255");
    toml += "[[class]]\nname = \"a\"\npattern = \"a\"\n";
    for (index, setting) in CLASS.iter().enumerate().skip(3) {
        toml += &format!("{} = {}\n", setting.key, index + 1);
    }
    // An answer within 243 ms, a stall of 242 would not go together.
    toml = toml.replace("stall_timeout_ms = 246", "stall_timeout_ms = 1246");
    let config = load(&toml, &[], &[]).expect("valid");
    for line in toml.lines().filter(|line| line.contains(" = ")) {
        assert!(config.to_toml().contains(&format!("{line}  #")), "{line} of\n{}", config.to_toml());
    }
}

/// Names every field, so that a new one does not compile until it is a setting.
#[test]
fn every_limit_is_a_setting_and_explained() {
    macro_rules! keys_of {
        ($type:ident: $($field:ident),+ $(,)?) => {{
            let _every_field = |$type { $($field: _),+ }: $type| ();
            [$(stringify!($field)),+]
        }};
    }
    let of_limits = keys_of!(Limits:
        message_bytes, message_fragments, message_time, head_bytes, head_headers, head_time, hello_time, heartbeat_interval,
        heartbeat_answer, stall_timeout, idle_timeout, key_bytes, value_bytes, publish_records, subscriptions,
        matched_topics, topics, messages_per_second, message_burst, resent_bytes, connections,
        connections_per_address, accepts_per_second, answer_bytes, unflushed_event_bytes, kind_runs, sequences, sequence_memory, shard_answer,
        freshness_target,
    );
    let of_class = keys_of!(TopicClass:
        name, pattern, priority, event_window, key_window, keys, events, event_bytes, event_age, pressure_low,
        pressure_normal, linger,
    );
    let of_config = keys_of!(Config:
        listen, admin, shards, cpus, idle, congestion, incoming_cpu, insecure, allowed_origins, trusted, drain, limits, classes,
    );
    let is_row = |key: &str, field: &str| key == field || key == format!("{field}_ms");
    let explained = Config::default().explained_limits();
    let line_of = |key: &str| explained.lines().find(|line| line.split_whitespace().next() == Some(key));
    for field in of_limits {
        let rows: Vec<_> = LIMITS.iter().filter(|setting| is_row(setting.key, field)).collect();
        assert_eq!(rows.len(), 1, "{field}");
        let (key, unit, beyond) = (rows[0].key, rows[0].unit, rows[0].note);
        let value = (rows[0].print)(&Limits::default()).expect("limits are always set");
        let line = line_of(key).unwrap_or_else(|| panic!("{key} is not explained"));
        assert!(!unit.is_empty() && !beyond.is_empty());
        assert!(line.contains(&format!(" {value} {unit}")) && line.ends_with(&format!("beyond: {beyond}")), "{line}");
    }
    for field in of_class {
        assert_eq!(CLASS.iter().filter(|setting| is_row(setting.key, field)).count(), 1, "{field}");
    }
    for field in of_config.into_iter().filter(|field| !["limits", "classes"].contains(field)) {
        assert_eq!(TOP.iter().filter(|setting| is_row(setting.key, field)).count(), 1, "{field}");
    }
    for (name, ..) in FIXED {
        assert!(line_of(name).is_some(), "{name}");
    }
    let times: Vec<_> = LIMITS.iter().filter(|setting| setting.unit.starts_with("ms")).collect();
    assert!(times.iter().all(|setting| setting.key.ends_with("_ms")), "the unit stands in the key");
    assert_eq!(Pattern::everything().to_string(), "**");
}
