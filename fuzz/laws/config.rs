//! Settings: any text as a configuration file. Not a fuzz target, as it needs the whole program; its corpus is mutated by
//! `tests/parser_corpus.rs`.

use crate::config::Config;

/// Checks everything; panics with what does not hold.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Config::read(&text, "the file") {
        Err(error) => assert!(!error.to_string().trim().is_empty(), "it says what is wrong"),
        Ok(config) => {
            assert!(config.check().is_ok(), "what was read is checked");
            let again = Config::read(&text, "the file").expect("it was well a moment ago");
            assert_eq!(again.to_json(), config.to_json(), "the same text is the same node");
        }
    }
}
