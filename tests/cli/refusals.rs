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
            let error = wrong_usage(&command.split(' ').chain([option, value]).collect::<Vec<_>>());
            assert!(error.contains(option) && error.contains("a number from 0 to 1000000000"), "{command} {error}");
        }
    }
}

#[test]
fn an_unknown_variable_is_told_of_those_that_can_be_set() {
    let said = |name: &str| {
        let output = tidegate().args(["serve", "--check"]).env(name, "1").output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(3), "{name}");
        String::from_utf8(output.stderr).expect("text")
    };
    for (name, nearest) in [
        ("TIDEGATE_LIMITS_TOPIC", "TIDEGATE_LIMITS_TOPICS"),
        ("TIDEGATE_LIMITS_LISTN", "TIDEGATE_LISTEN"),
        ("TIDEGATE_TOPICS", "TIDEGATE_LIMITS_TOPICS"),
    ] {
        let error = said(name);
        assert!(error.ends_with(&format!("unknown setting; did you mean `{nearest}`?\n")), "{error}");
    }
    for name in ["TIDEGATE_LIMITS_FOO", "TIDEGATE_LIMITS", "TIDEGATE_CLASS", "TIDEGATE_CLAS"] {
        let error = said(name);
        assert!(error.ends_with("unknown setting\n"), "{error}");
    }
}

#[test]
fn an_echo_for_other_machines_wants_to_be_told_so() {
    let error = refused(&["echo", "--listen", "0.0.0.0:0"], 3);
    assert!(error.starts_with("tidegate: --listen: 0.0.0.0:0 can be reached from other machines"), "{error}");
    assert!(error.contains("--insecure"), "{error}");
}

#[test]
fn demo_has_no_options_that_only_serve_has() {
    let help = String::from_utf8(run(&["demo", "--help"]).stdout).expect("text");
    for option in ["--check", "--print-config"] {
        assert!(!help.lines().any(|line| line.trim_start().starts_with(option)), "{help}");
        assert!(wrong_usage(&["demo", option]).contains(option));
    }
}

#[test]
fn a_congestion_control_that_is_not_there_is_told_with_those_that_are() {
    let output =
        tidegate().args(crate::LOOPBACK).env("TIDEGATE_CONGESTION", "nosuch").output().expect("the binary runs");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.starts_with("tidegate: `congestion`: no socket can have the congestion control \"nosuch\""),
        "{error}"
    );
    let there = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").expect("Linux");
    assert!(error.contains(there.trim()), "{there} in {error}");
    let doctor = tidegate().arg("doctor").env("TIDEGATE_CONGESTION", "nosuch").output().expect("the binary runs");
    assert_eq!(doctor.status.code(), Some(3), "doctor ends as the engine would");

    let error = refused(&["bench", "fanout", "--congestion", "nosuch"], 2);
    assert!(error.starts_with("tidegate: --congestion: no socket can have") && error.contains(there.trim()), "{error}");
}

/// Before anything is started.
#[test]
fn what_is_wrong_with_a_measurement_has_the_code_of_the_table() {
    let error = refused(&["bench", "fanout", "--url", "foo", "--admin", "127.0.0.1:1"], 2);
    assert!(error.contains("--url: \"foo\" is not ws:// and an IP address and port"), "{error}");
    for flag in ["--server-cpu", "--generator-cpu"] {
        let error = refused(&["bench", "fanout", "--congestion", "system", flag, "1023"], 2);
        assert!(
            error.starts_with(&format!("tidegate: {flag}: nothing here can run on CPU 1023: choose from ")),
            "{error}"
        );
    }
    let error = refused(&["bench", "mesh", "--congestion", "system", "--shard-cpus", "0,1023"], 2);
    assert!(error.starts_with("tidegate: --shard-cpus: "), "{error}");
    let error = refused(&["bench", "depth", "--congestion", "system", "--replay", "/nonexistent/capture"], 7);
    assert!(error.starts_with("tidegate: /nonexistent/capture: cannot read: "), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let closed = closed.expect("a free port").to_string();
    let url = format!("ws://{closed}");
    let shape = ["bench", "fanout", "--congestion", "system", "--url", &url];
    let error = refused(&[&shape[..], &["--admin", &closed]].concat(), 5);
    assert!(error.contains(&format!("the admin port at {closed} does not answer")), "{error}");
    let error = refused(&[&shape[..], &["--peer", "broadcast"]].concat(), 5);
    assert!(error.contains(&format!("connecting to {closed}")), "{error}");
}

#[test]
fn what_the_measured_server_ends_with_is_passed_on() {
    let output = tidegate()
        .args(["bench", "fanout", "--congestion", "system"])
        .env("TIDEGATE_SHARDZ", "1")
        .output()
        .expect("the binary runs");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert_eq!(error.lines().count(), 1, "the server has said why: {error}");
    assert!(error.contains("TIDEGATE_SHARDZ"), "{error}");
}

#[test]
fn too_few_descriptors_are_told_before_anything_is_started() {
    for (scenario, wanted) in [
        (&["fanout", "--subscribers", "1000"][..], "1065"),
        (&["fanout", "--subscribers", "1000", "--rate", "10"], "2065"),
        (&["storm", "--clients", "900", "--established", "100"], "1065"),
        (&["mesh", "--subscribers", "1000"], "2098"),
    ] {
        let output = std::process::Command::new("prlimit")
            .args(["--nofile=300:300", env!("CARGO_BIN_EXE_tidegate"), "bench"])
            .args(scenario)
            .args(["--congestion", "system"])
            .output()
            .expect("util-linux is there");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(&format!("the limit is 300: raise it by `ulimit -n {wanted}`")), "{error}");
    }
}
