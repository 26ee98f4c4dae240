//! An event stream that reconnects and resumes.
//!
//! It works like EventSource, with more retries: it sends the last event id, applies `retry:`, and ends at 204.
//! Temporary statuses (see `upstream::status`) are retried; other refusals end the stream. [`Stream::next`] is cancel
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

/// Growth of the delay where the server names none.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30), 2);

/// A server may ask for patience, but not for ever.
const HINT_MAX: Duration = Duration::from_mins(1);

/// An event as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Message {
    /// Its name.
    pub(in crate::cli) event: String,
    /// Its payload.
    pub(in crate::cli) data: String,
    /// Its own id, if it has one.
    pub(in crate::cli) id: Option<String>,
    /// True if this is the first event of a connection.
    pub(in crate::cli) first: bool,
}

/// What a stream does next.
#[derive(Debug)]
pub(in crate::cli) enum Next {
    /// An event came.
    Event(Message),
    /// The connection is gone; the next call waits so long, then connects again.
    Lost {
        /// Why.
        reason: String,
        /// How long.
        wait: Duration,
    },
    /// The server says that nothing will follow.
    End,
}

/// The stream.
pub(in crate::cli) struct Stream {
    api: Api,
    url: Url,
    /// How long a silence may last.
    idle: Duration,
    /// How long to go on trying; for ever unless set.
    patience: Option<Duration>,
    body: Option<Body>,
    decoder: Decoder,
    /// What one chunk completed and nobody has taken yet.
    ready: VecDeque<Message>,
    last_id: Option<String>,
    retry: Option<Duration>,
    attempt: u32,
    /// When the next attempt is due.
    due: Option<Instant>,
    /// Since when nothing came.
    lost_since: Option<Instant>,
    was_open: bool,
    /// True until the first event of this connection arrives.
    first: bool,
}

// === impl Message ===

impl Message {
    /// The payload as JSON where it is JSON, else as a string.
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

    /// The same as a tree: for what the node itself says.
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
            patience: None,
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

    /// How long a silence may last before the connection counts as lost; 45 s unless set, three heartbeats of a node.
    pub(in crate::cli) fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Gives up when it could not connect for so long.
    pub(in crate::cli) fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// What happens next.
    ///
    /// # Errors
    /// What no further attempt can mend, and at the first attempt also that nobody is there.
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
                Err(error) if error.retryable() && (self.was_open || !error.nobody_there()) => {
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
        // An id with characters that no header can carry is one that cannot be asked for.
        if let Some(id) = self.last_id.as_ref().and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            request.headers.insert("last-event-id", id);
        }
        let response = self.api.send(request).await?;
        if response.status.as_u16() == 204 {
            return Ok(None);
        }
        let media = response.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !media.to_ascii_lowercase().starts_with(sse::MEDIA_TYPE) {
            return Err(Error::Unexpected(format!("`{}` is no event stream: it answers with `{media}`", self.url)));
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
                // A node that only says when to come back is not there yet.
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
        if self.patience.is_some_and(|patience| now - since >= patience) {
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
