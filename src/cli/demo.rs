//! `demo`: a node in this process and a job on it, to see what there is to see.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, client::Api, log, progress::View, run::Job, serve::stop_signal, text::say};
use crate::{
    app::{self, App, Server},
    config::Config,
    journal,
};

mod report;

/// The port of the contract's examples.
const PORT: u16 = 8090;

/// How often another port is tried.
const BIND_ATTEMPTS: u32 = 5;

/// How a demo ends.
#[derive(Args, Debug)]
pub(super) struct DemoArguments {
    /// Ends with the job instead of serving on.
    #[arg(long)]
    once: bool,
}

/// Runs a node and a job of local and HTTP tasks on it; exit code 1 if a task failed.
pub(super) async fn demo(arguments: &DemoArguments) -> Result<u8, Failure> {
    let (server, addr) = node()?;
    let stopping = CancellationToken::new();
    let serving = actix_rt::spawn(server.run(stopping.clone().cancelled_owned()));
    let signal = stop_signal()?;
    tokio::pin!(signal);
    say(&format!("A node of Millstream is at http://{addr}, and its test page at http://{addr}/sse-client.html"))?;
    say(
        "Four handlers and one HTTP request run on it now, in parallel. The request goes to the node itself, which the\negress guard would refuse: this node has its own address in `egress.allow`.\n",
    )?;

    let api = Api::at(&format!("http://{addr}"))?;
    let mut view = View::new(false);
    let code = tokio::select! {
        code = show(&api, addr, &mut view) => code,
        () = &mut signal => Ok(130),
    };
    if !arguments.once && matches!(code, Ok(0 | 1)) {
        invite(addr)?;
        signal.await;
    }
    stopping.cancel();
    serving.await.map_err(|error| Failure::new(error.to_string()))??;
    code
}

/// A node on the usual port, or on a free one where that is taken.
fn node() -> Result<(Server, SocketAddr), Failure> {
    let mut config = Config::load(None)?;
    config.telemetry.log = "warn".into();
    // Nothing of a demo is worth keeping.
    config.journal.kind = journal::Kind::Memory;
    config.journal.max_bytes = 64 << 20;
    log(&config.telemetry)?;
    let mut attempts = 0..BIND_ATTEMPTS;
    loop {
        let address = free_address()?;
        let mut config = config.clone();
        config.server.listen = address;
        config.egress.allow.push(address.to_string());
        match App::build(config)?.bind() {
            Ok(server) => return Ok((server, address)),
            // Somebody took the port between the look and the bind.
            Err(app::Error::Listen { .. }) if attempts.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The address must be known before the node is built, since the guard is told of it.
fn free_address() -> Result<SocketAddr, Failure> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    bind(PORT).or_else(|_| bind(0)).map_err(|error| Failure::new(format!("no port is free on 127.0.0.1: {error}")))
}

async fn show(api: &Api, addr: SocketAddr, view: &mut View) -> Result<u8, Failure> {
    let names = ["Process Image", "Calculate Stats", "Fetch External Data", "Call Third-party API"];
    let mut tasks: Vec<_> = names.iter().map(|name| json!({ "id": name, "name": name, "run": name })).collect();
    let url = format!("http://{addr}/api/sse/samples/quotes?page=1");
    tasks.push(
        json!({ "id": "HTTP request", "name": "HTTP request", "url": url, "timeoutMs": 10_000, "retryCount": 2 }),
    );
    let job = Job::submit(api, json!({ "tasks": tasks, "timeoutMs": 60_000 }).to_string().into()).await?;
    let outcome = job.watch(view, false).await?;
    say(&format!("\n{}", report::results(&outcome)))?;
    Ok(outcome.exit_code())
}

fn invite(addr: SocketAddr) -> Result<(), Failure> {
    say(&format!(
        "The node goes on until Ctrl-C. Open http://{addr}/sse-client.html, or try these:\n\
         \n  curl -N 'http://{addr}/api/sse/managed/connect' -H 'X-Auth-Token: 123'\
         \n  curl 'http://{addr}/api/sse/managed/send/user/123' -H 'Content-Type: application/json' -d '{{\"hello\":\"there\"}}'\
         \n  curl -N 'http://{addr}/api/sse/emitter/parallel-tasks' -H 'Content-Type: application/json' \\\
         \n    -d '{{\"tasks\":[{{\"run\":\"Process Image\"}},{{\"run\":\"Calculate Stats\"}}]}}'\n"
    ))
}
