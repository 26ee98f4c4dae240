//! Settings: any text as a configuration file. It needs the whole program, so it is not a fuzz target.
//! `tests/parser_corpus.rs` mutates its corpus.

use crate::config::Config;

/// Checks the law. Panics with the property that does not hold.
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
