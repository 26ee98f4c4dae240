//! The server under load: a node, or another server of event streams on this machine.
//!
//! The cases use topics and events. This file has the requests of each server.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use clap::Args;
use millstream::upstream;

use crate::{
    process::Node,
    subscriber::{Greeting, Subscription},
    usage::Usage,
};

/// Which server is measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArguments {
    /// A node that already runs, on loopback; without it the measurement starts one.
    #[arg(long, value_name = "URL", group = "running", value_parser = loopback)]
    url: Option<SocketAddr>,
    /// Streams of another server, on loopback; `{topic}` stands for the topic.
    #[arg(long, value_name = "URL", group = "running", value_parser = template)]
    subscribe_url: Option<Template>,
    /// Where that server takes an event as the body of a POST; `{topic}` stands for the topic.
    #[arg(long, value_name = "URL", requires = "subscribe_url", value_parser = template)]
    publish_url: Option<Template>,
    /// The body of that POST with `{topic}` and `{data}`, which is JSON; without it the data alone.
    #[arg(long, value_name = "TEXT", requires = "publish_url")]
    publish_body: Option<String>,
    /// The process of that server, for its CPU time and memory; its children count too.
    #[arg(long, value_name = "PID", requires = "running")]
    server_pid: Option<u32>,
    /// The token, sent as `X-Auth-Token`.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Threads that read for the subscribers.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    readers: u16,
}

/// The server under load.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The address of its streams.
    pub addr: SocketAddr,
    /// Its process, if known.
    pub pid: Option<u32>,
    /// Threads that read for the subscribers.
    pub readers: usize,
    token: Option<String>,
    api: Api,
}

/// The requests of a server.
#[derive(Clone, Debug)]
enum Api {
    Node,
    Other(Arc<Other>),
}

/// A server that is not a node.
#[derive(Debug)]
struct Other {
    subscribe: Template,
    publish: Option<Template>,
    body: String,
}

/// An address, and a path in which `{topic}` stands for the topic.
#[derive(Clone, Debug)]
struct Template {
    addr: SocketAddr,
    path: String,
}

// === impl TargetArguments ===

impl TargetArguments {
    /// The server, and the node if one was started: it ends when it is dropped.
    ///
    /// # Errors
    /// When the node does not start.
    pub(crate) fn open(&self) -> Result<(Option<Node>, Target), String> {
        if let Some(target) = self.running() {
            return Ok((None, target));
        }
        let node = Node::start()?;
        let target = Target { token: self.token.clone(), readers: self.readers.into(), ..Target::node(&node) };
        Ok((Some(node), target))
    }

    /// The server that already runs, if one was named.
    fn running(&self) -> Option<Target> {
        let (addr, api) = match (&self.url, &self.subscribe_url) {
            (Some(addr), _) => (*addr, Api::Node),
            (None, Some(subscribe)) => {
                let body = self.publish_body.clone().unwrap_or_else(|| "{data}".to_owned());
                let other = Other { subscribe: subscribe.clone(), publish: self.publish_url.clone(), body };
                (subscribe.addr, Api::Other(Arc::new(other)))
            }
            (None, None) => return None,
        };
        Some(Target { addr, pid: self.server_pid, token: self.token.clone(), readers: self.readers.into(), api })
    }
}

// === impl Target ===

impl Target {
    /// A node of this measurement, with one thread that reads.
    pub(crate) fn node(node: &Node) -> Self {
        Self { addr: node.addr, pid: Some(node.pid()), token: None, readers: 1, api: Api::Node }
    }

    /// CPU time and memory of the server so far; `None` if its process is unknown.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.pid.and_then(Usage::with_children)
    }

    /// A subscription to a topic, from now on or after a position. `first` is the first sequence number that it gets.
    pub(crate) fn subscription(&self, topic: &str, after: Option<&str>, first: u64) -> Subscription {
        let (path, greeting) = match &self.api {
            Api::Node => (format!("/events?topic={topic}"), Greeting::Frame),
            Api::Other(other) => (other.subscribe.path.replace("{topic}", topic), Greeting::Head),
        };
        let after = after.map_or_else(String::new, |position| format!("last-event-id: {position}\r\n"));
        let (addr, token) = (self.addr, self.token_line());
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{token}{after}accept: text/event-stream\r\n\r\n");
        Subscription { request, first, greeting }
    }

    /// Path and body of the POST that publishes an event.
    pub(crate) fn publication(&self, topic: &str, data: &str) -> (String, String) {
        match &self.api {
            Api::Node => ("/events".to_owned(), format!(r#"{{"topic":"{topic}","data":{data}}}"#)),
            Api::Other(other) => {
                let path = other.publish.as_ref().map_or("/", |publish| &publish.path);
                (path.replace("{topic}", topic), other.body.replace("{topic}", topic).replace("{data}", data))
            }
        }
    }

    /// The address for publishing.
    ///
    /// # Errors
    /// When none was named.
    pub(crate) fn publishing_addr(&self) -> Result<SocketAddr, String> {
        match &self.api {
            Api::Node => Ok(self.addr),
            Api::Other(other) => {
                let publish = other.publish.as_ref().map(|publish| publish.addr);
                publish.ok_or_else(|| "this case publishes: name the place with --publish-url".to_owned())
            }
        }
    }

    /// The header line with the token, empty without one.
    pub(crate) fn token_line(&self) -> String {
        self.token.as_ref().map_or_else(String::new, |token| format!("x-auth-token: {token}\r\n"))
    }
}

/// The address of a URL of this machine. Other machines are never put under load.
fn loopback(url: &str) -> Result<SocketAddr, String> {
    let refused = |why: &str| format!("{why}; the form is http://127.0.0.1:PORT");
    let parsed = upstream::parse_url(url).map_err(|error| refused(&error.to_string()))?;
    if parsed.scheme() != "http" || parsed.path() != "/" {
        return Err(refused("it must be plain http without a path"));
    }
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = parsed.port_or_known_default().unwrap_or(80);
    let addrs = (host, port).to_socket_addrs().map_err(|error| refused(&error.to_string()))?;
    let addrs: Vec<SocketAddr> = addrs.collect();
    match addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()) {
        Some(addr) if addrs.iter().all(|addr| addr.ip().is_loopback()) => Ok(*addr),
        _ => Err(refused("it is not a loopback address of this machine")),
    }
}

/// Address and path of a URL with `{topic}`, which a URL parser would escape.
fn template(url: &str) -> Result<Template, String> {
    let refused = |why: &str| format!("{why}; the form is http://127.0.0.1:PORT/PATH");
    let rest = url.strip_prefix("http://").ok_or_else(|| refused("it must be plain http"))?;
    let (authority, path) = rest.split_at(rest.find('/').ok_or_else(|| refused("it has no path"))?);
    if path.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(refused("its path may have visible ASCII characters only"));
    }
    Ok(Template { addr: loopback(&format!("http://{authority}"))?, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_put_under_load() {
        assert_eq!(loopback("http://127.0.0.1:8090").unwrap(), "127.0.0.1:8090".parse().unwrap());
        assert_eq!(loopback("http://[::1]:8090/").unwrap(), "[::1]:8090".parse().unwrap());
        assert!(loopback("http://localhost:1").unwrap().ip().is_loopback());
        for url in ["http://192.0.2.1:80", "http://10.0.0.1", "https://127.0.0.1", "http://127.0.0.1:1/x", "nonsense"] {
            assert!(loopback(url).is_err(), "{url}");
        }
        for url in ["http://192.0.2.1:80/{topic}", "http://127.0.0.1:1", "https://127.0.0.1/x", "http://127.0.0.1/a b"]
        {
            assert!(template(url).is_err(), "{url}");
        }
    }

    #[test]
    fn requests_to_another_server_follow_its_templates() {
        let arguments = TargetArguments {
            url: None,
            subscribe_url: Some(template("http://127.0.0.1:7001/sub/{topic}?x={topic}").unwrap()),
            publish_url: Some(template("http://127.0.0.1:7002/pub/{topic}").unwrap()),
            publish_body: Some(r#"{"to":"{topic}","what":{data}}"#.into()),
            server_pid: None,
            token: None,
            readers: 1,
        };
        let target = arguments.running().expect("it runs");
        let subscription = target.subscription("t:1", Some("5:0"), 3);
        assert!(subscription.request.starts_with("GET /sub/t:1?x=t:1 HTTP/1.1\r\n"), "{}", subscription.request);
        assert!(subscription.request.contains("\r\nlast-event-id: 5:0\r\n"), "{}", subscription.request);
        assert_eq!(target.publishing_addr().unwrap().port(), 7002);
        let (path, body) = target.publication("t:1", "{}");
        assert_eq!((&*path, &*body), ("/pub/t:1", r#"{"to":"t:1","what":{}}"#));

        let bare = TargetArguments { publish_body: None, ..arguments.clone() }.running().unwrap();
        assert_eq!(bare.publication("t", "{\"p\":0}").1, "{\"p\":0}");
        let silent = TargetArguments { publish_url: None, publish_body: None, ..arguments }.running().unwrap();
        assert!(silent.publishing_addr().unwrap_err().contains("--publish-url"));
    }
}
