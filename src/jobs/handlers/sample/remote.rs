//! Samples `fetch` and `third_party`: typical calls of other services, here of the node itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::data::{ORDERS_PATH, QUOTES_PATH};
use crate::{
    jobs::{
        handler::{Output, Task, TaskError, TaskHandler},
        handlers::{
            common::{Deps, unless_cancelled},
            http::{meter::Meter, status_error},
        },
    },
    journal::BoxFuture,
    text::hex,
    upstream::{Chunks, Client, Method, Request, Response, StatusCode, Trust, Verdict, verdict},
};

/// Maximum number of pages that are requested.
const PAGES_MAX: u32 = 100;

/// The node as its own upstream.
pub(super) struct Node {
    client: Client,
    url: Arc<OnceLock<String>>,
    max_response_bytes: usize,
}

/// Downloads the orders.
pub(super) struct Fetch(pub Node);

/// Collects the quotes.
pub(super) struct ThirdParty(pub Node);

#[derive(Deserialize)]
struct Page {
    pages: u32,
    quotes: Vec<Quote>,
}

#[derive(Deserialize)]
struct Quote {
    carrier: String,
    route: String,
    price: f64,
}

// === impl Node ===

impl Node {
    /// The node of these dependencies.
    pub(super) fn new(deps: &Deps) -> Self {
        Self { client: deps.client.clone(), url: deps.own_url.clone(), max_response_bytes: deps.max_response_bytes }
    }

    /// The status and the body of a success.
    async fn get(&self, path: &str) -> Result<(StatusCode, Chunks), TaskError> {
        let base = self.url.get().ok_or_else(|| TaskError::transient("not_ready", "the node does not listen yet"))?;
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let response = self.client.send(Request::new(Method::GET, url, Trust::Operator)).await?;
        if verdict(response.status) != Verdict::Success {
            return Err(status_error(response).await);
        }
        let Response { status, headers, body, .. } = response;
        let unreadable = |encoding| TaskError::fatal("unsupported_encoding", format!("encoded as `{encoding}`"));
        Ok((status, Chunks::of(&headers, body).map_err(unreadable)?))
    }
}

// === impl Fetch ===

impl Fetch {
    async fn attempt(&self, task: &Task) -> Result<Output, TaskError> {
        let (status, mut body) = self.0.get(ORDERS_PATH).await?;
        let mut meter = Meter::new(&task.progress, body.content_length());
        let table = meter.collect(&mut body, self.0.max_response_bytes, &task.reserve).await?;
        let lines = memchr::memchr_iter(b'\n', &table).count();
        let result = json!({
            "bytes": table.len(),
            // The first line names the columns.
            "rows": lines.saturating_sub(1),
            "sha256": hex(&Sha256::digest(&table)),
        });
        Ok(Output { http_status: Some(status.as_u16()), ..result.into() })
    }
}

impl TaskHandler for Fetch {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move { unless_cancelled(&task.cancel, self.attempt(&task)).await })
    }
}

// === impl ThirdParty ===

impl ThirdParty {
    async fn attempt(&self, task: &Task) -> Result<Output, TaskError> {
        let mut quotes = Vec::new();
        let (mut page, mut pages) = (1, 1);
        while page <= pages {
            let (_, body) = self.0.get(&format!("{QUOTES_PATH}?page={page}")).await?;
            let body = body.collect(self.0.max_response_bytes).await?;
            let answer: Page = crate::json::from_slice(&body).map_err(|error| {
                TaskError::fatal("bad_response", format!("page {page} of the quotes is not as expected: {error}"))
            })?;
            // A number of another service must not determine the number of requests.
            pages = answer.pages.min(PAGES_MAX);
            quotes.extend(answer.quotes);
            let progress = 100.0 * f64::from(page) / f64::from(pages.max(1));
            task.progress.report(progress.min(100.0), format!("page {page} of {pages}, {} quotes", quotes.len())).await;
            page += 1;
        }
        Ok(compare(page - 1, &quotes).into())
    }
}

impl TaskHandler for ThirdParty {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move { unless_cancelled(&task.cancel, self.attempt(&task)).await })
    }
}

// === helpers ===

/// The average price, and the cheapest carrier of each route.
fn compare(pages: u32, quotes: &[Quote]) -> Value {
    let mut cheapest = BTreeMap::<&str, &Quote>::new();
    for quote in quotes {
        let best = cheapest.entry(&quote.route).or_insert(quote);
        if quote.price < best.price {
            *best = quote;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred quotes")]
    let average = quotes.iter().map(|quote| quote.price).sum::<f64>() / quotes.len().max(1) as f64;
    let carriers: BTreeSet<&str> = quotes.iter().map(|quote| quote.carrier.as_str()).collect();
    json!({
        "pages": pages,
        "quotes": quotes.len(),
        "carriers": carriers,
        "averagePrice": (average * 100.0).round() / 100.0,
        "cheapestByRoute": cheapest.into_iter().map(|(route, quote)| {
            (route.to_owned(), json!({"carrier": quote.carrier, "price": quote.price}))
        }).collect::<serde_json::Map<_, _>>(),
    })
}
