//! An event stream that reconnects and resumes.
//!
//! It works like `EventSource`, with more retries: it sends the last event id, applies `retry:`, and ends at 204.
//! Temporary statuses (see `upstream::status`) are retried; other errors end the stream. [`Stream::next`] is cancel
//! safe.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{Api, Error, Failure};
use crate::{
    json::{self, Json},
    sse::{self, Decoder, Item},
    upstream::{Backoff, Body, HeaderValue, Method, Url},
};

/// Growth of the delay if the server sets none.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Maximum delay that a server can set.
const HINT_MAX: Duration = Duration::from_mins(1);

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Message {
    /// Name of the event.
    pub(in crate::cli) event: String,
    /// Payload.
    pub(in crate::cli) data: String,
    /// Id of this event, if it has one.
    pub(in crate::cli) id: Option<String>,
    /// True if this is the first event of a connection.
    pub(in crate::cli) first: bool,
}

/// The next item of a stream.
#[derive(Debug)]
pub(in crate::cli) enum Next {
    /// An event.
    Event(Message),
    /// The connection is lost. The next call waits, and then connects again.
    Lost {
        /// The reason.
        reason: String,
        /// The delay before the next attempt.
        wait: Duration,
    },
    /// The server reports that no event will follow.
    End,
}

/// An event stream that reconnects.
pub(in crate::cli) struct Stream {
    api: Api,
    url: Url,
    /// Maximum time without data before the connection counts as lost.
    idle: Duration,
    /// Maximum time without a connection; `None`: no limit.
    give_up_after: Option<Duration>,
    body: Option<Body>,
    decoder: Decoder,
    /// Decoded events that were not returned yet.
    ready: VecDeque<Message>,
    last_id: Option<String>,
    retry: Option<Duration>,
    attempt: u32,
    /// Time of the next attempt.
    due: Option<Instant>,
    /// Time of the last data, while there is no connection.
    lost_since: Option<Instant>,
    was_open: bool,
    /// True until the first event of this connection arrives.
    first: bool,
}

// === impl Message ===

impl Message {
    /// The payload as JSON if it is valid JSON, else as a JSON string.
    pub(in crate::cli) fn json(&self) -> Json {
        json::embed(&self.data)
    }

    /// The event as a line of JSON.
    pub(in crate::cli) fn row(&self) -> String {
        #[derive(Serialize)]
        struct Row<'a> {
            id: Option<&'a str>,
            event: &'a str,
            data: Json,
        }
        let row = Row { id: self.id.as_deref(), event: &self.event, data: self.json() };
        serde_json::to_string(&row).expect("plain data serialises")
    }

    /// The payload as a JSON tree, for events of the node itself.
    pub(in crate::cli) fn value(&self) -> serde_json::Value {
        self.json().value()
    }

    /// True for control frames: the first frame, and other control names without an id.
    pub(in crate::cli) fn is_control(&self) -> bool {
        match &*self.event {
            "connection" => self.first || self.id.is_none(),
            "heartbeat" | "gap" | "disconnect" => self.id.is_none(),
            _ => false,
        }
    }
}

// === impl Stream ===

impl Stream {
    /// A stream that connects at the first [`next`](Self::next).
    pub(in crate::cli) fn new(api: &Api, url: Url, last_id: Option<String>) -> Self {
        Self {
            api: api.clone(),
            url,
            idle: Duration::from_secs(45),
            give_up_after: None,
            body: None,
            decoder: Decoder::new(sse::Limits::default()),
            ready: VecDeque::new(),
            last_id,
            retry: None,
            attempt: 0,
            due: None,
            lost_since: None,
            was_open: false,
            first: true,
        }
    }

    /// Sets the time without data after which the connection counts as lost. Default: 45 s, three heartbeats of a node.
    pub(in crate::cli) fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets the time without a connection after which the stream ends with an error.
    pub(in crate::cli) fn give_up_after(mut self, give_up_after: Duration) -> Self {
        self.give_up_after = Some(give_up_after);
        self
    }

    /// Returns the next item.
    ///
    /// # Errors
    /// If a retry cannot help. At the first attempt also if there is no server.
    pub(in crate::cli) async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Next::Event(message));
            }
            if let Some(body) = &mut self.body {
                match body.chunk().await {
                    Some(Ok(bytes)) => self.take(&bytes)?,
                    Some(Err(error)) => return self.lost(&error.to_string(), None),
                    None => return self.lost("the stream ended", None),
                }
                continue;
            }
            if let Some(due) = self.due {
                tokio::time::sleep_until(due).await;
            }
            match self.connect().await {
                Ok(Some(body)) => self.opened(body),
                Ok(None) => return Ok(Next::End),
                Err(error) if error.retryable() && (self.was_open || !error.is_connect_error()) => {
                    return self.lost(&error.to_string(), error.retry_after());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connect(&self) -> Result<Option<Body>, Error> {
        let mut request = self.api.request(Method::GET, &self.url);
        request.headers.insert("accept", HeaderValue::from_static(sse::MEDIA_TYPE));
        request.headers.insert("cache-control", HeaderValue::from_static("no-store"));
        // An id that is not valid in a header cannot be sent.
        if let Some(id) = self.last_id.as_ref().and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            request.headers.insert("last-event-id", id);
        }
        let response = self.api.send(request).await?;
        if response.status.as_u16() == 204 {
            return Ok(None);
        }
        let media = response.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !media.to_ascii_lowercase().starts_with(sse::MEDIA_TYPE) {
            return Err(Error::Unexpected(format!("`{}` is not an event stream: its type is `{media}`", self.url)));
        }
        Ok(Some(response.body.idle_timeout(self.idle)))
    }

    fn opened(&mut self, body: Body) {
        self.body = Some(body);
        self.decoder = Decoder::new(sse::Limits::default());
        self.due = None;
        self.was_open = true;
        self.first = true;
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Self { decoder, ready, last_id, retry, attempt, lost_since, first, .. } = self;
        let taken = decoder.push(bytes, |item| match item {
            Item::Event { event, data, id, own_id } => {
                let own = own_id.then(|| id.to_owned());
                if own_id {
                    *last_id = Some(id.to_owned()).filter(|id| !id.is_empty());
                }
                let first = std::mem::take(first);
                let message = Message { event: event.to_owned(), data: data.to_owned(), id: own, first };
                // A stream with only `disconnect` is not a successful connection.
                if !(message.is_control() && event == "disconnect") {
                    *attempt = 0;
                    *lost_since = None;
                }
                ready.push_back(message);
            }
            Item::Retry(ms) => *retry = Some(Duration::from_millis(ms).min(HINT_MAX)),
            Item::Id(_) | Item::Comment(_) => {}
        });
        taken.map_err(|error| Failure::new(format!("`{}`: {error}", self.url)))
    }

    fn lost(&mut self, reason: &str, hint: Option<Duration>) -> Result<Next, Failure> {
        self.body = None;
        let now = Instant::now();
        let since = *self.lost_since.get_or_insert(now);
        if self.give_up_after.is_some_and(|give_up_after| now - since >= give_up_after) {
            return Err(Failure::new(format!("gave up after {:?} without a connection: {reason}", now - since)));
        }
        let hint = hint.map(|hint| hint.min(HINT_MAX)).max(self.retry);
        let wait = BACKOFF.delay(self.attempt, hint, &mut rand::rng());
        self.attempt = self.attempt.saturating_add(1);
        self.due = Some(now + wait);
        Ok(Next::Lost { reason: reason.to_owned(), wait })
    }
}

#[cfg(test)]
mod tests;
