//! `gets URL COUNT CONCURRENCY`: COUNT GETs with CONCURRENCY in flight, in a simple `awc` program.
//!
//! The lower limit for a job of HTTP tasks: one arbiter, one client, no journal, no events, no guard, no retries. Each
//! body is read to its end. One line of JSON contains `seconds`, `rate`, `failures` and `cpuSeconds` of this process;
//! the exit status is 1 if a GET failed, 64 if the arguments are wrong.

use std::{
    cell::Cell,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;

/// Time limit of one GET.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest body in bytes.
const BODY_MAX: usize = 10 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, count, concurrency] = &arguments[..] else { return usage() };
    let (Ok(count), Ok(concurrency)) = (count.parse(), concurrency.parse()) else { return usage() };
    if count == 0 || concurrency == 0 {
        return usage();
    }
    let begun = Instant::now();
    let failures = actix_rt::System::new().block_on(run(url.clone(), count, concurrency));
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(count) / seconds;
    let row = json!({ "seconds": seconds, "rate": rate, "failures": failures, "cpuSeconds": cpu_seconds() });
    println!("{row}");
    ExitCode::from(u8::from(failures > 0))
}

fn usage() -> ExitCode {
    eprintln!("gets URL COUNT CONCURRENCY; both numbers from 1");
    ExitCode::from(64)
}

/// Returns the number of failures.
async fn run(url: String, count: u32, concurrency: u32) -> u32 {
    let connector = awc::Connector::new().limit(concurrency as usize);
    let client = awc::Client::builder().connector(connector).timeout(TIMEOUT).finish();
    let (begun, failures) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let flights = (0..concurrency.min(count)).map(|_| {
        let (client, url, begun, failures) = (client.clone(), url.clone(), begun.clone(), failures.clone());
        actix_rt::spawn(async move {
            while begun.get() < count {
                begun.set(begun.get() + 1);
                if !get(&client, &url).await {
                    failures.set(failures.get() + 1);
                }
            }
        })
    });
    for ended in join_all(flights).await {
        ended.expect("a flight does not panic");
    }
    failures.get()
}

/// One GET with its whole body.
async fn get(client: &awc::Client, url: &str) -> bool {
    match client.get(url).send().await {
        Ok(mut response) => response.body().limit(BODY_MAX).await.is_ok() && response.status().is_success(),
        Err(_) => false,
    }
}

/// CPU time of this process; `None` if `/proc` does not report it. Nanoseconds: a short run has few hundredths of a
/// second.
fn cpu_seconds() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanos = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanos.sum()).as_secs_f64())
}
