//! Tests of reading settings: accepted and rejected values, and error messages.

use super::*;

fn error(toml: &str) -> String {
    Config::read(toml, "test.toml").unwrap_err().to_string()
}

#[test]
fn an_unknown_key_is_rejected_with_the_nearest_known_one() {
    assert_eq!(
        error("[emitter]\nheartbeet_ms = 5"),
        "test.toml: unknown key `emitter.heartbeet_ms`; did you mean `heartbeat_ms`?"
    );
    assert_eq!(error("[serverr]\nlisten = 'x'"), "test.toml: unknown key `serverr`; did you mean `server`?");
}

#[test]
fn a_wrong_value_names_its_key() {
    let message = error("[emitter]\nheartbeat_ms = 'soon'");
    assert!(message.contains("`emitter.heartbeat_ms`") && message.contains("soon"), "{message}");
    assert!(error("[server]\nlisten = 'nowhere'").contains("`server.listen`"));
}

#[test]
fn open_access_is_rejected_on_a_reachable_address() {
    let message = error("[server]\nlisten = '0.0.0.0:80'");
    assert!(message.contains("allow_open"), "{message}");
    assert!(Config::read("[server]\nlisten = '0.0.0.0:80'\n[access]\nallow_open = true", "t").is_ok());
}

#[test]
fn the_built_in_configuration_is_valid() {
    let config = Config::load(None).unwrap();
    for name in ["Process Image", "Calculate Stats", "Fetch External Data", "Call Third-party API", "task1", "task2"] {
        assert!(config.handlers.contains_key(name), "{name}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let toml = "[remotes.a]\nbase_url = 'https://a.example'\npaths = ['/x']\nheaders = { 'X-Api-Key' = 'secret-1' }\n\
                [handlers.c]\nkind = 'command'\ncommand = ['x']\nenv = { KEY = 'secret-4' }\n\
                [handlers.h]\nkind = 'http'\nurl = 'https://h.example/x?key=secret-2'\n\
                [access]\nmode = 'token'\n[access.jwt]\njwks_url = 'https://id.example/keys?key=secret-3'";
    let config = Config::parse(toml, "test.toml").unwrap();
    let shown = config.to_json().to_string();
    assert!(!shown.contains("secret-"), "{shown}");
    assert!(shown.contains("X-Api-Key") && shown.contains("https://h.example/x?***"), "{shown}");
}

#[test]
fn variables_that_hold_secrets_are_not_passed_on_to_programs() {
    let with = |more: &str, name: &str| {
        let toml = format!("{more}\n[handlers.c]\nkind = 'command'\ncommand = ['x']\npass_env = ['{name}']");
        Config::parse(&toml, "test.toml").map(drop).map_err(|error| error.to_string())
    };
    let remote =
        "[remotes.a]\nbase_url_env = 'A_URL'\nbase_url = 'https://a.example'\ntoken_env = 'A_TOKEN'\npaths = ['/x']";
    let webhook = "[webhooks.w]\nsecret_env = ['W_ONE', 'W_TWO']\nevent = 'e'\ntopic = 't'";
    for (more, name) in [(remote, "A_TOKEN"), (remote, "A_URL"), (webhook, "W_TWO"), ("", "MILLSTREAM_TOKEN")] {
        assert_eq!(with(more, "OTHER"), Ok(()));
        let error = with(more, name);
        assert!(error.is_err_and(|error| error.contains("`handlers.c`") && error.contains(name)), "{name}");
    }
}
