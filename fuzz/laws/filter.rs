//! Filters: an expression, and after the byte `0xFE` the metadata (JSON) of a subscriber.
//!
//! Under the fuzzer a panic ends the process, even if the program would catch it.

use super::halves;
use crate::event::{Filter, Meta, Subscriber};

/// Far above the cost of the most expensive expression for a subscriber in two groups.
const MAX_WEIGHT: usize = 1000;

/// Checks the law. Panics with the property that does not hold.
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
    // A text from a damaged journal: if it is not a filter, it matches no subscriber.
    let damaged = Filter::restore(&source);
    let is_filter = serde_json::from_str(&source).is_ok_and(|json| Filter::from_json(json).is_ok());
    for subscriber in [somebody, nobody] {
        assert!(is_filter || damaged.matches(&subscriber) == Ok(false), "damage must not reach anybody");
    }
}
