//! `demo`: runs the two servers of the guide in this process, with a job on both.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, client::Api, log, progress::View, run::Job, serve::stop_signal, text::print_line};
use crate::{
    app::{self, App, Server},
    config::{self, Config},
    journal, telemetry,
    upstream::RemoteConfig,
};

mod report;

/// The ports of the examples in the guide.
const ORCHESTRATOR_PORT: u16 = 8090;
const REACTIVE_PORT: u16 = 8080;

/// The orchestrator's name for the other node.
const REMOTE: &str = "reactive";

/// Maximum number of attempts to bind a port.
const BIND_ATTEMPTS: u32 = 5;

/// Options of the demo.
#[derive(Args, Debug)]
pub(super) struct DemoArguments {
    /// End with the job instead of serving further requests.
    #[arg(long)]
    once: bool,
}

/// Runs two nodes and a job of local, remote and HTTP tasks on them; exit code 1 if a task failed.
pub(super) async fn demo(arguments: &DemoArguments) -> Result<u8, Failure> {
    log(&telemetry::Config { log: "warn".into(), ..telemetry::Config::default() })?;
    let (reactive, remote) =
        node(Config::read(config::REACTIVE, "the built-in reactive configuration")?, REACTIVE_PORT)?;
    let mut config = Config::load(None)?;
    let base_url = Some(format!("http://{remote}"));
    // The port may differ from the built-in one, and the environment must not change the address.
    let settings = config.remotes.remove(REMOTE).unwrap_or_default();
    config.remotes.insert(REMOTE.into(), RemoteConfig { base_url, base_url_env: None, ..settings });
    let (orchestrator, addr) = node(config, ORCHESTRATOR_PORT)?;
    let stopping = CancellationToken::new();
    let serving =
        [orchestrator, reactive].map(|server| actix_rt::spawn(server.run(stopping.clone().cancelled_owned())));
    let signal = stop_signal()?;
    tokio::pin!(signal);
    print_line(&format!(
        "A node of Millstream is at http://{addr}, and its test page at http://{addr}/sse-client.html\n\
         Another one is at http://{remote}; the first one calls it `{REMOTE}`."
    ))?;
    print_line(
        "One job runs on both now: two tasks and an HTTP request here, two tasks there, in parallel. The request goes to the\n\
         node itself. The egress guard would reject this, so this node has its own address in `egress.allow`.\n",
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
    for server in serving {
        server.await.map_err(|error| Failure::new(error.to_string()))??;
    }
    code
}

/// A node on this port, or on a free one if it is in use.
fn node(mut config: Config, port: u16) -> Result<(Server, SocketAddr), Failure> {
    // The demo stores nothing.
    config.journal.kind = journal::Kind::Memory;
    config.journal.max_bytes = 64 << 20;
    let mut attempts = 0..BIND_ATTEMPTS;
    loop {
        let address = free_address(port)?;
        let mut config = config.clone();
        config.server.listen = address;
        config.egress.allow.push(address.to_string());
        match App::build(config)?.bind() {
            Ok(server) => return Ok((server, address)),
            // Another process has bound the port meanwhile.
            Err(app::Error::Listen { .. }) if attempts.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The address must be known before the node is built, because the guard needs it.
fn free_address(port: u16) -> Result<SocketAddr, Failure> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    bind(port).or_else(|_| bind(0)).map_err(|error| Failure::new(format!("no port is free on 127.0.0.1: {error}")))
}

async fn show(api: &Api, addr: SocketAddr, view: &mut View) -> Result<u8, Failure> {
    let mut tasks: Vec<_> = ["Process Image", "Calculate Stats"]
        .iter()
        .map(|name| json!({ "id": name, "name": name, "run": name }))
        .collect();
    let remote = ["Fetch External Data", "Call Third-party API"];
    tasks.extend(remote.iter().map(|name| json!({ "id": name, "name": name, "run": name, "remote": REMOTE })));
    let url = format!("http://{addr}/api/sse/samples/quotes?page=1");
    tasks.push(
        json!({ "id": "HTTP request", "name": "HTTP request", "url": url, "timeoutMs": 10_000, "retryCount": 2 }),
    );
    let job = Job::submit(api, json!({ "tasks": tasks, "timeoutMs": 60_000 }).to_string().into()).await?;
    let outcome = job.watch(view, false).await?;
    print_line(&format!("\n{}", report::results(&outcome)))?;
    Ok(outcome.exit_code())
}

fn invite(addr: SocketAddr) -> Result<(), Failure> {
    print_line(&format!(
        "The nodes run until Ctrl-C. Open http://{addr}/sse-client.html, or try these:\n\
         \n  curl -N 'http://{addr}/api/sse/managed/connect' -H 'X-Auth-Token: 123'\
         \n  curl 'http://{addr}/api/sse/managed/send/user/123' -H 'Content-Type: application/json' -d '{{\"hello\":\"there\"}}'\
         \n  curl -N 'http://{addr}/api/sse-integration/hybrid-execution/sse-emitter' -H 'Content-Type: application/json' \\\
         \n    -d '{{\"localTasks\":[\"Process Image\"],\"remoteTasks\":[\"Fetch External Data\"]}}'\
         \n  curl -N 'http://{addr}/api/sse-proxy/merge-streams/sse-emitter' -H 'Content-Type: application/json' \\\
         \n    -d '[\"/api/sse/sample-parallel\",\"/api/sse/flow-example\"]'\n"
    ))
}
