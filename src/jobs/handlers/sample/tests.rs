//! Runs of the samples; a mock server replaces the node's own endpoints, and checks which requests come.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use wiremock::{
    Mock, MockBuilder, MockServer, ResponseTemplate,
    matchers::{method, path, query_param},
};

use super::*;
use crate::jobs::handlers::double::{Answer, Upstream, deps, task};

fn rises(progress: &[f64]) -> bool {
    progress.windows(2).all(|pair| pair[0] < pair[1]) && progress.iter().all(|value| (0.0..=100.0).contains(value))
}

/// A request to an endpoint of the node.
fn endpoint(target: &str) -> MockBuilder {
    Mock::given(method("GET")).and(path(target))
}

async fn run(name: &str, url: Option<String>) -> (Result<Output, TaskError>, Vec<f64>) {
    let deps = deps();
    if let Some(url) = url {
        deps.own_url.set(url).expect("it is set once");
    }
    let (task, recorder) = task(Value::Null);
    let done = sample(name, &deps).expect("the sample exists").handler.run(task).await;
    (done, recorder.progress())
}

#[tokio::test]
async fn thumbnail_makes_real_pictures_of_three_widths() {
    let (done, progress) = run("thumbnail", None).await;
    let result = done.expect("the picture is well").result.value();
    assert_eq!((&result["width"], &result["height"]), (&json!(1600), &json!(1000)));
    let thumbnails = result["thumbnails"].as_array().expect("a list");
    let sizes: Vec<_> = thumbnails.iter().map(|t| (t["width"].clone(), t["height"].clone())).collect();
    assert_eq!(sizes, [(json!(1280), json!(800)), (json!(640), json!(400)), (json!(320), json!(200))]);
    let bytes: Vec<_> = thumbnails.iter().filter_map(|t| t["bytes"].as_u64()).collect();
    assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2] && bytes[2] > 1000, "{bytes:?}");
    assert!(thumbnails.iter().all(|t| t["sha256"].as_str().is_some_and(|hash| hash.len() == 64)));
    assert!(rises(&progress) && progress.len() >= 8 && progress.last() == Some(&100.0), "{progress:?}");
}

#[tokio::test]
async fn stats_describe_all_orders() {
    let (done, progress) = run("stats", None).await;
    let result = done.expect("the table is well").result.value();
    assert_eq!(result["count"], 10_000);
    let [min, mean, p95, max] = ["min", "mean", "p95", "max"].map(|name| result[name].as_f64().expect("a number"));
    assert!(0.0 < min && min < mean && mean < p95 && p95 < max, "{result}");
    let regions = result["totalByRegion"].as_object().expect("an object");
    let sum: f64 = regions.values().filter_map(Value::as_f64).sum();
    assert_eq!(regions.len(), 5);
    assert!((sum - result["total"].as_f64().expect("a number")).abs() < 0.1, "{result}");
    assert!(rises(&progress) && progress.len() >= 20, "{progress:?}");
}

#[tokio::test]
async fn fetch_gets_the_whole_table() {
    let node = MockServer::start().await;
    let orders = ResponseTemplate::new(200).set_body_raw(orders_csv(), "text/csv");
    endpoint(ORDERS_PATH).respond_with(orders).expect(1).mount(&node).await;
    let (done, progress) = run("fetch", Some(node.uri())).await;
    let output = done.expect("the node answers");
    assert_eq!(output.http_status, Some(200));
    assert_eq!(
        (&output.result.value()["bytes"], &output.result.value()["rows"]),
        (&json!(orders_csv().len()), &json!(10_000))
    );
    assert!(rises(&progress) && progress.last() == Some(&100.0), "{progress:?}");
}

#[tokio::test]
async fn third_party_asks_for_every_page_once() {
    let node = MockServer::start().await;
    for page in 1..=5 {
        let quotes = ResponseTemplate::new(200).set_body_json(quotes(page).expect("it exists"));
        let asked = endpoint(QUOTES_PATH).and(query_param("page", page.to_string()));
        asked.respond_with(quotes).expect(1).mount(&node).await;
    }
    let (done, progress) = run("third_party", Some(node.uri())).await;
    let result = done.expect("the node answers").result.value();
    assert_eq!((&result["pages"], &result["quotes"]), (&json!(5), &json!(100)));
    assert_eq!(result["carriers"].as_array().map(Vec::len), Some(4));
    assert_eq!(result["cheapestByRoute"].as_object().map(serde_json::Map::len), Some(5));
    assert_eq!(progress, [20.0, 40.0, 60.0, 80.0, 100.0]);
    let requests = node.received_requests().await.expect("requests are recorded");
    let pages: Vec<_> = requests.iter().filter_map(|request| request.url.query()).collect();
    assert_eq!(pages, ["page=1", "page=2", "page=3", "page=4", "page=5"]);
}

#[tokio::test]
async fn samples_that_ask_the_node_wait_for_it_to_listen() {
    for name in ["fetch", "third_party"] {
        let (done, _) = run(name, None).await;
        let error = done.expect_err("there is no node");
        assert_eq!((error.code.as_str(), error.retryable), ("not_ready", true));
    }
}

#[tokio::test]
async fn a_cancelled_sample_ends_at_once() {
    for name in NAMES {
        let upstream = Upstream::start(|_| Answer::Stall(Vec::new())).await;
        let deps = deps();
        deps.own_url.set(upstream.url).expect("it is set once");
        let (task, recorder) = task(Value::Null);
        task.cancel.cancel();
        let handler = sample(name, &deps).expect("the sample exists").handler;
        let done = tokio::time::timeout(Duration::from_secs(10), handler.run(task)).await.expect("it ends");
        assert_eq!(done.expect_err("it was cancelled").code, "cancelled");
        assert!(recorder.reports().is_empty());
    }
}

/// The thread must stop when the result is no longer needed.
#[test]
fn a_step_fails_when_the_result_is_no_longer_needed() {
    let (reports, receiver) = mpsc::channel(8);
    let steps = Steps { reports, cancel: CancellationToken::new() };
    assert!(steps.done(1.0, "one").is_ok());
    drop(receiver);
    assert_eq!(steps.done(2.0, "two").map_err(|error| error.code), Err("cancelled".into()));
}

#[test]
fn quotes_have_five_pages_that_never_change() {
    assert_eq!(quotes(0), None);
    assert_eq!(quotes(6), None);
    let ids: Vec<u32> =
        (1..=5).flat_map(|page| quotes(page).expect("it exists").quotes).map(|quote| quote.id).collect();
    assert_eq!(ids, (1..=100).collect::<Vec<u32>>());
    assert_eq!(quotes(3), quotes(3));
}
