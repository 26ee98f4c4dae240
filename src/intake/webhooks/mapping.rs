//! Mappings: creates the event of a delivery, with its topic and data. Pure.
//!
//! The body is not parsed into a tree, so that copied numbers keep their digits.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::{
    config::{Target, WebhookConfig},
    rule::{ANY, Rule, rules},
    source::{Headers, Source, Unmapped},
};
use crate::{
    event::{Draft, Payload, names},
    json::without_mark,
    topic::Topic,
};

/// Creates drafts from deliveries.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    event: EventName,
    data: Option<Vec<Rule>>,
    /// Fields of the data for single events, by event name.
    event_data: HashMap<String, Vec<Rule>>,
    target: TopicRule,
}

#[derive(Clone, Debug)]
enum EventName {
    Fixed(String),
    /// The value at this location, renamed by the list unless it is empty.
    From(Source, HashMap<String, String>),
}

#[derive(Clone, Debug)]
enum TopicRule {
    Fixed(Topic),
    /// Topic from the value at this location.
    From(Source, Kind),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Topic,
    User,
    Group,
}

/// Maximum length of a value of a delivery in an error, in characters.
const QUOTED: usize = 64;

// === impl Mapping ===

impl Mapping {
    /// Parses the settings. An error names the setting within the section.
    pub(super) fn new(config: &WebhookConfig) -> Result<Self, (String, String)> {
        let keyed = |key: &str, error: String| (key.to_owned(), error);
        let event = match (&config.event, &config.event_from) {
            (Some(name), None) if config.events.is_empty() => EventName::Fixed(event_name(name, "event")?),
            (Some(_), None) => return Err(keyed("events", "it needs `event_from` instead of `event`".into())),
            (None, Some(from)) => {
                for (found, name) in &config.events {
                    event_name(name, &format!("events.{found}"))?;
                }
                let source = Source::parse(from).map_err(|error| keyed("event_from", error))?;
                EventName::From(source, config.events.clone().into_iter().collect())
            }
            (Some(_), Some(_)) => return Err(keyed("event", "give `event` or `event_from`, not both".into())),
            (None, None) => {
                return Err(keyed("event", "give the name of the event, or its location: `event_from`".into()));
            }
        };
        let data = config.data.as_ref().map(|fields| rules("data", fields)).transpose()?;
        let event_data = config.event_data.iter().map(|(name, fields)| -> Result<_, (String, String)> {
            let key = format!("event_data.{name}");
            if !event.can_be(name) {
                return Err((key, "no event of this webhook has this name".into()));
            }
            Ok((name.clone(), rules(&key, fields)?))
        });
        let event_data = event_data.collect::<Result<HashMap<_, _>, _>>()?;
        let target = match (&config.topic, &config.user, &config.group) {
            (Some(topic), None, None) => TopicRule::new(topic, Kind::Topic).map_err(|error| keyed("topic", error))?,
            (None, Some(user), None) => TopicRule::new(user, Kind::User).map_err(|error| keyed("user", error))?,
            (None, None, Some(group)) => TopicRule::new(group, Kind::Group).map_err(|error| keyed("group", error))?,
            _ => return Err(keyed("topic", "give exactly one of `topic`, `user` and `group`".into())),
        };
        Ok(Self { event, data, event_data, target })
    }

    /// All locations from which values are taken.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        let event = if let EventName::From(source, _) = &self.event { Some(source) } else { None };
        let target = if let TopicRule::From(source, _) = &self.target { Some(source) } else { None };
        let data = self.data.iter().chain(self.event_data.values()).flatten().filter_map(Rule::source);
        event.into_iter().chain(target).chain(data)
    }

    /// The topic, if it is constant.
    pub(super) fn topic(&self) -> Option<&Topic> {
        if let TopicRule::Fixed(topic) = &self.target { Some(topic) } else { None }
    }

    /// Creates the event.
    pub(super) fn draft(&self, headers: Headers<'_>, body: &[u8]) -> Result<Draft, Unmapped> {
        let body: &RawValue =
            serde_json::from_slice(without_mark(body)).map_err(|error| Unmapped(self.no_json(&error.to_string())))?;
        let event = self.event.of(headers, body)?;
        if names::is_control(&event) {
            return Err(Unmapped(format!("`{}` is the name of a control frame", quoted(&event))));
        }
        let topic = self.target.of(headers, body)?;
        let data = match self.event_data.get(&event).or(self.data.as_ref()) {
            None => Payload::of(body.get()).map_err(|error| Unmapped(self.no_json(&error.to_string())))?.0,
            Some(rules) => picked(rules, headers, body)?,
        };
        Ok(Draft::new(topic, event, data))
    }

    fn no_json(&self, error: &str) -> String {
        let needed: Vec<String> = self.sources().map(ToString::to_string).collect();
        let needed = if needed.is_empty() { String::new() } else { format!(", and {} is needed", needed.join(", ")) };
        format!("the body is not JSON{needed}: {error}")
    }
}

/// A JSON object with the fields of these rules.
fn picked(rules: &[Rule], headers: Headers<'_>, body: &RawValue) -> Result<String, Unmapped> {
    let mut object = Object::default();
    for rule in rules {
        if let Some(value) = rule.value(headers, body)? {
            object.push(&rule.name, &value);
        }
    }
    // Checked and compacted like any other payload.
    Payload::of(&object.finish())
        .map(|payload| payload.0)
        .map_err(|error| Unmapped(format!("the selected values cannot be sent: {error}")))
}

/// Builds the text of a JSON object, field by field.
#[derive(Default)]
struct Object(String);

impl Object {
    fn push(&mut self, name: &str, value: &RawValue) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&serde_json::to_string(name).expect("a text is JSON"));
        self.0.push(':');
        self.0.push_str(value.get());
    }

    fn finish(self) -> String {
        if self.0.is_empty() { "{}".into() } else { self.0 + "}" }
    }
}

// === impl EventName ===

impl EventName {
    /// True if a delivery can become an event with this name.
    fn can_be(&self, name: &str) -> bool {
        match self {
            Self::Fixed(fixed) => fixed == name,
            Self::From(_, names) => names.is_empty() || names.values().any(|listed| listed == name),
        }
    }

    fn of(&self, headers: Headers<'_>, body: &RawValue) -> Result<String, Unmapped> {
        let (source, names) = match self {
            Self::Fixed(name) => return Ok(name.clone()),
            Self::From(source, names) => (source, names),
        };
        let found = source.text(headers, body)?;
        if names.is_empty() {
            return Ok(found);
        }
        let name = names.get(&found).or_else(|| names.get(ANY));
        name.cloned().ok_or_else(|| {
            let found = quoted(&found);
            Unmapped(format!("{source} is `{found}`, for which this webhook has no event"))
        })
    }
}

fn event_name(name: &str, key: &str) -> Result<String, (String, String)> {
    if names::is_control(name) {
        return Err((key.to_owned(), format!("`{name}` is the name of a control frame; choose another one")));
    }
    let good = !name.is_empty() && !name.contains(['\r', '\n', '\0']);
    good.then(|| name.to_owned())
        .ok_or_else(|| (key.to_owned(), format!("`{}` is not a valid event name", name.escape_debug())))
}

// === impl TopicRule ===

impl TopicRule {
    fn new(target: &Target, kind: Kind) -> Result<Self, String> {
        match target {
            Target::Fixed(name) => Ok(Self::Fixed(kind.topic(name)?)),
            Target::From(location) => Ok(Self::From(Source::parse(&location.from)?, kind)),
        }
    }

    fn of(&self, headers: Headers<'_>, body: &RawValue) -> Result<Topic, Unmapped> {
        match self {
            Self::Fixed(topic) => Ok(topic.clone()),
            Self::From(source, kind) => {
                let found = source.text(headers, body)?;
                kind.topic(&found).map_err(|error| Unmapped(format!("{source} is not a valid target: {error}")))
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    fn topic(self, name: &str) -> Result<Topic, String> {
        let prefixed = match self {
            // `user:` without a name would be a valid topic.
            Self::User | Self::Group if name.is_empty() => return Err("it is empty".into()),
            Self::User => Topic::user(name),
            Self::Group => Topic::group(name),
            Self::Topic => Topic::new(name),
        };
        let topic = prefixed.map_err(|invalid| invalid.to_string())?;
        if topic.internal() {
            return Err(format!("only the node itself publishes into `{}`", quoted(topic.as_str())));
        }
        Ok(topic)
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).flat_map(char::escape_debug).collect()
}
