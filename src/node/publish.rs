//! Publishing from Rust: to a user, a group, all clients, or the connections that match a filter.
//!
//! ```
//! # use millstream::{app::App, config::Config, event::Filter, journal::Kind};
//! # use serde_json::json;
//! # actix_rt::System::new().block_on(async {
//! # let mut config = Config::default();
//! # config.journal.kind = Kind::Memory;
//! # let app = App::build(config)?;
//! let node = app.node();
//! let published = node.publish_to_user("123", "notification", &json!({ "text": "hello" })).await?;
//! assert_eq!(published.delivered, Some(0)); // no stream of this user is open
//! node.publish_to_group("ops", "alarm", "disk full").await?;
//! node.publish_to_all("news", &json!({ "version": "1.2" })).await?;
//! node.publish_filtered(Filter::expression("metadata.premium == true")?, "offer", "for you").await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

use serde::Serialize;

use super::Node;
use crate::{
    event::{Draft, Filter, Position},
    journal::{AppendError, Batch},
    topic::{self, Topic},
};

/// An event that was appended to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position, the `id:` that subscribers receive. For a repeated publisher's id this is the position of the
    /// first event.
    pub id: Position,
    /// The first of its topics.
    pub topic: Topic,
    /// Streams of this node that were subscribed at that moment; `None` for filtered events, which are not counted.
    pub delivered: Option<u64>,
    /// True when an event with the same publisher's id was already appended.
    pub duplicate: bool,
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The user or group cannot be part of a topic's name.
    #[error(transparent)]
    Topic(#[from] topic::Invalid),
    /// The data cannot be written as JSON.
    #[error("the data cannot be written as JSON: {0}")]
    Data(#[from] serde_json::Error),
    /// The journal rejected the event, or cannot accept events now; the variant gives the remedy.
    #[error(transparent)]
    Append(#[from] AppendError),
}

// === impl Node ===

impl Node {
    /// Publishes an event into a topic. Returns once the event is in the journal.
    ///
    /// A string is sent unchanged; any other value becomes compact JSON, as over HTTP. An empty `event` is `message`.
    ///
    /// # Errors
    /// An error means that nothing was published.
    pub async fn publish(
        &self,
        topic: Topic,
        event: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, PublishError> {
        self.publish_one(Draft::new(topic, event, text(data)?)).await
    }

    /// Publishes into the topic `user:{user}`, to which every stream of that user is subscribed.
    ///
    /// # Errors
    /// If the event is rejected, or `user` cannot be part of a topic's name.
    pub async fn publish_to_user(
        &self,
        user: &str,
        event: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, PublishError> {
        self.publish(Topic::user(user)?, event, data).await
    }

    /// Publishes into the topic `group:{group}`, to which every stream of that group is subscribed.
    ///
    /// # Errors
    /// If the event is rejected, or `group` cannot be part of a topic's name.
    pub async fn publish_to_group(
        &self,
        group: &str,
        event: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, PublishError> {
        self.publish(Topic::group(group)?, event, data).await
    }

    /// Publishes into the topic `all`, the broadcast.
    ///
    /// # Errors
    /// If the event is rejected.
    pub async fn publish_to_all(
        &self,
        event: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, PublishError> {
        self.publish(Topic::all(), event, data).await
    }

    /// Publishes a broadcast that reaches only the streams whose metadata, user or groups match; also on replay.
    ///
    /// # Errors
    /// If the event is rejected.
    pub async fn publish_filtered(
        &self,
        filter: Filter,
        event: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, PublishError> {
        let draft = Draft { filter: Some(filter), ..Draft::new(Topic::all(), event, text(data)?) };
        self.publish_one(draft).await
    }

    async fn publish_one(&self, draft: Draft) -> Result<Published, PublishError> {
        let published = self.publish_drafts(vec![draft]).await?;
        Ok(published.into_iter().next().expect("one receipt for each draft"))
    }

    /// Appends events as one batch, all or none, and returns one result per event, in order. Both the HTTP routes and
    /// the Rust methods publish through this function.
    pub(crate) async fn publish_drafts(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, AppendError> {
        let audience =
            |draft: &Draft| (draft.topics.first().cloned(), self.hub.delivered(&draft.topics, draft.filter.is_some()));
        let audiences: Vec<_> = drafts.iter().map(audience).collect();
        let receipts = self.journal.append(Batch::events(drafts)).await?;
        let published = audiences.into_iter().zip(receipts).map(|((topic, delivered), receipt)| Published {
            id: receipt.position,
            topic: topic.expect("an event without a topic was refused"),
            delivered,
            duplicate: receipt.duplicate,
        });
        Ok(published.collect())
    }
}

/// The payload: a string unchanged, any other value as compact JSON.
fn text(data: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(data)?;
    if json.starts_with('"') { serde_json::from_str(&json) } else { Ok(json) }
}
