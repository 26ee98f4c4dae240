//! Topics and patterns: two texts, divided by the byte `0xFE`.

use super::halves;
use crate::topic::{MAX_BYTES, Pattern, Topic};

/// Checks the law. Panics with the property that does not hold.
pub fn check(input: &[u8]) {
    let (one, other) = halves(input);
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    for text in [&one, &other] {
        a_name_is_what_it_says(text);
    }
    let (Ok(one), Ok(other)) = (Pattern::new(&one), Pattern::new(&other)) else { return };
    covers_and_matches_agree(&one, &other);
    covers_and_matches_agree(&other, &one);
    for pattern in [&one, &other] {
        assert!(pattern.covers(pattern) && Pattern::any().covers(pattern));
        assert_eq!(Pattern::new(&pattern.to_string()).as_ref(), Ok(pattern), "as text and back");
    }
    assert_eq!(one.covers(&other) && other.covers(&one), one == other, "who cover one another are the same");
}

fn a_name_is_what_it_says(text: &str) {
    let good = |c: char| !(c.is_whitespace() || c.is_control() || c == ',' || c == '*');
    let name = (1..=MAX_BYTES).contains(&text.len()) && text.chars().all(good);
    assert_eq!(Topic::new(text).is_ok(), name, "{text:?}");
    assert_eq!(
        Pattern::new(text).is_ok(),
        name || text == "*" || text.strip_suffix('*').is_some_and(|text| Topic::new(text).is_ok())
    );
    if let Ok(topic) = Topic::new(text) {
        assert_eq!(topic.as_str(), text);
        let exact = Pattern::from(topic.clone());
        assert!(exact.matches(&topic) && Pattern::any().matches(&topic));
        assert!(Pattern::new(&format!("{text}*")).is_ok_and(|prefix| prefix.matches(&topic) && prefix.covers(&exact)));
    }
}

/// A pattern covers another pattern if it matches all topics of the other. These topics are samples of them.
fn covers_and_matches_agree(one: &Pattern, other: &Pattern) {
    let samples: Vec<Topic> = match other {
        Pattern::Exact(topic) => vec![topic.clone()],
        Pattern::Prefix(prefix) => {
            ["", "a", "b", ":"].iter().filter_map(|rest| Topic::new(format!("{prefix}{rest}")).ok()).collect()
        }
    };
    assert!(!samples.is_empty());
    for topic in &samples {
        assert!(other.matches(topic));
        assert!(!one.covers(other) || one.matches(topic), "{one} covers {other} but does not match {topic}");
    }
    // A prefix of the maximum length has only one topic. `covers` need not detect this case.
    if samples.len() > 1 {
        assert!(one.covers(other) || !samples.iter().all(|topic| one.matches(topic)), "{one} and {other}");
    }
}
