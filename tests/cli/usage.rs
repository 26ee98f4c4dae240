//! Bad usage: exit code 64, and words that help.

use crate::program::{Program, file};

fn refused(arguments: &[&str]) -> String {
    Program::start(arguments, None).end().expect(64).stderr
}

#[test]
fn a_typo_in_the_configuration_is_reported_with_the_nearest_key() {
    let (_directory, path) = file("node.toml", "[server]\nlisten = '127.0.0.1:0'\n\n[emitter]\nheartbeet_ms = 5000\n");
    let message = refused(&["check-config", "--config", &path]);
    assert!(message.contains("heartbeet_ms") && message.contains("`heartbeat_ms`"), "{message}");
    assert!(message.contains("node.toml"), "{message}");
    assert_eq!(refused(&["serve", "--config", &path]), message);
}

#[test]
fn a_good_configuration_is_printed_as_it_is_in_force() {
    let (_directory, path) = file("node.toml", "[emitter]\nheartbeat_ms = 5000\n");
    let ended =
        Program::start_with(&["check-config", "--config", &path], None, &[("MILLSTREAM__SERVER__DRAIN_MS", "7")]);
    let shown: serde_json::Value = serde_json::from_str(&ended.end().expect(0).stdout).unwrap();
    assert_eq!((&shown["emitter"]["heartbeat_ms"], &shown["server"]["drain_ms"]), (&5000.into(), &7.into()));
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    assert!(refused(&["sevre"]).contains("serve"));
    assert!(refused(&["run"]).contains("JOB.json"));
    assert!(refused(&["publish", "t", "--tll", "5"]).contains("--ttl"));
    assert!(refused(&["watch", "http://127.0.0.1:1/x", "topic"]).contains("one URL"));
}

#[test]
fn every_command_prints_its_version() {
    for command in [&["--version"][..], &["run", "--version"], &["watch", "-V"], &["demo", "-V"]] {
        let ended = Program::start(command, None).end().expect(0);
        assert!(ended.stdout.contains(env!("CARGO_PKG_VERSION")), "{command:?}: {}", ended.stdout);
    }
}
