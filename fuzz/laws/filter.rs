//! Filters: an expression, and behind the byte `0xFE` the metadata (JSON) of somebody whom it is asked about.
//!
//! Under the fuzzer a panic ends the process also where the program would catch it.

use super::halves;
use crate::event::{Filter, Meta, Subscriber};

/// Far more than the dearest expression costs for somebody in two groups.
const MAX_WEIGHT: usize = 1000;

/// Checks everything; panics with what does not hold.
pub fn check(input: &[u8]) {
    let (source, meta) = halves(input);
    let source = String::from_utf8_lossy(source);
    let meta: Meta = serde_json::from_slice(meta).unwrap_or_default();
    let groups = ["ops".to_owned(), "team-a".to_owned()];
    let somebody = Subscriber { meta: &meta, user: Some("42"), groups: &groups, emitter_id: "user_42_x" };
    let nobody = Subscriber { meta: &Meta::default(), user: None, groups: &[], emitter_id: "anonymous_x" };
    match Filter::expression(&source) {
        Err(refused) => assert!(!refused.to_string().is_empty()),
        Ok(filter) => {
            let stored = serde_json::to_string(&filter).expect("it is a string");
            let restored = Filter::restore(&stored);
            assert_eq!(restored, filter, "the journal gives back what it was given");
            assert_eq!(filter.size(), source.len());
            for subscriber in [somebody, nobody] {
                assert_eq!(filter.matches(&subscriber), restored.matches(&subscriber), "an answer is for ever");
                assert!(filter.weight(&subscriber) < MAX_WEIGHT + meta.0.len());
            }
        }
    }
    // The journal's text, whatever became of it: what is no filter reaches nobody.
    let damaged = Filter::restore(&source);
    let is_filter = serde_json::from_str(&source).is_ok_and(|json| Filter::from_json(json).is_ok());
    for subscriber in [somebody, nobody] {
        assert!(is_filter || damaged.matches(&subscriber) == Ok(false), "damage must not reach anybody");
    }
}
