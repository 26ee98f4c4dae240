//! What is under load: a node of this program, or any other server of event streams on this machine.
//!
//! The cases speak of topics and of events; how a topic is subscribed to and how an event is published stands here.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use clap::Args;

use super::{
    process::Node,
    subscriber::{Ask, Greeting},
    usage::Usage,
};
use crate::{cli::Failure, upstream};

/// Which server is measured.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArguments {
    /// A node that runs already, on loopback; without it one is started for the measurement.
    #[arg(long, value_name = "URL", group = "running")]
    url: Option<String>,
    /// Streams of another server, on loopback; `{topic}` stands for the topic.
    #[arg(long, value_name = "URL", group = "running")]
    subscribe_url: Option<String>,
    /// Where that server takes an event as the body of a POST; `{topic}` stands for the topic.
    #[arg(long, value_name = "URL", requires = "subscribe_url")]
    publish_url: Option<String>,
    /// The body of that POST: `{topic}` and `{data}`, which is JSON, are filled in; without it the data alone.
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
pub(super) struct Target {
    /// Where its streams are.
    pub(super) addr: SocketAddr,
    /// Its process, if somebody said which.
    pub(super) pid: Option<u32>,
    pub(super) token: Option<String>,
    /// Threads that read for the subscribers.
    pub(super) readers: usize,
    api: Api,
}

/// How a server is spoken to.
#[derive(Clone, Debug)]
enum Api {
    Node,
    Other(Arc<Other>),
}

/// Templates with holes for topic and data.
#[derive(Debug)]
struct Other {
    subscribe: String,
    publish: Option<(SocketAddr, String)>,
    body: String,
}

// === impl TargetArguments ===

impl TargetArguments {
    /// The server that runs already; `None` where one is to be started.
    ///
    /// # Errors
    /// When it is not on this machine.
    pub(super) fn running(&self) -> Result<Option<Target>, Failure> {
        let (addr, api) = if let Some(url) = &self.url {
            (loopback(url)?, Api::Node)
        } else if let Some(url) = &self.subscribe_url {
            let (addr, subscribe) = template(url)?;
            let publish = self.publish_url.as_deref().map(template).transpose()?;
            let body = self.publish_body.clone().unwrap_or_else(|| "{data}".to_owned());
            (addr, Api::Other(Arc::new(Other { subscribe, publish, body })))
        } else {
            return Ok(None);
        };
        Ok(Some(Target { api, ..self.at(addr, self.server_pid) }))
    }

    /// A node that was started for the measurement.
    pub(super) fn started(&self, node: &Node) -> Target {
        self.at(node.addr, Some(node.pid()))
    }

    fn at(&self, addr: SocketAddr, pid: Option<u32>) -> Target {
        Target { addr, pid, token: self.token.clone(), readers: self.readers.into(), api: Api::Node }
    }
}

// === impl Target ===

impl Target {
    /// A node of our own, with one thread that reads.
    pub(super) fn node(node: &Node) -> Self {
        Self { addr: node.addr, pid: Some(node.pid()), token: None, readers: 1, api: Api::Node }
    }

    /// What the server has used so far; `None` where nobody said which process it is.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.pid.and_then(Usage::with_children)
    }

    /// What a subscriber of a topic asks for: what comes from now on, or after a position. `first` is the first number
    /// that it is to get.
    pub(super) fn ask(&self, topic: &str, after: Option<&str>, first: u64) -> Ask {
        let (path, greeting) = match &self.api {
            Api::Node => (format!("/events?topic={topic}"), Greeting::Frame),
            Api::Other(other) => (other.subscribe.replace("{topic}", topic), Greeting::Head),
        };
        let after = after.map_or_else(String::new, |position| format!("last-event-id: {position}\r\n"));
        let (addr, token) = (self.addr, self.token_line());
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{token}{after}accept: text/event-stream\r\n\r\n");
        Ask { request, first, greeting }
    }

    /// Path and body of the POST that publishes an event.
    pub(super) fn publication(&self, topic: &str, data: &str) -> (String, String) {
        match &self.api {
            Api::Node => ("/events".to_owned(), format!(r#"{{"topic":"{topic}","data":{data}}}"#)),
            Api::Other(other) => {
                let path = other.publish.as_ref().map_or("/", |(_, path)| path);
                (path.replace("{topic}", topic), other.body.replace("{topic}", topic).replace("{data}", data))
            }
        }
    }

    /// Where events are published.
    ///
    /// # Errors
    /// When nobody said where.
    pub(super) fn publishing_addr(&self) -> Result<SocketAddr, String> {
        match &self.api {
            Api::Node => Ok(self.addr),
            Api::Other(other) => {
                let publish = other.publish.as_ref().map(|(addr, _)| *addr);
                publish.ok_or_else(|| "this case publishes: say where, with --publish-url".to_owned())
            }
        }
    }

    /// The header line that names the token, if there is one.
    pub(super) fn token_line(&self) -> String {
        self.token.as_ref().map_or_else(String::new, |token| format!("x-auth-token: {token}\r\n"))
    }
}

/// The address of a node on this machine: nobody else is put under load.
fn loopback(url: &str) -> Result<SocketAddr, Failure> {
    let refused = |why: &str| Failure::usage(format!("`{url}`: {why}; bench takes http://127.0.0.1:PORT"));
    let parsed = upstream::parse_url(url).map_err(|error| refused(&error.to_string()))?;
    if parsed.scheme() != "http" || parsed.path() != "/" {
        return Err(refused("only plain http without a path can be loaded"));
    }
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = parsed.port_or_known_default().unwrap_or(80);
    let addrs = (host, port).to_socket_addrs().map_err(|error| refused(&error.to_string()))?;
    let addrs: Vec<SocketAddr> = addrs.collect();
    match addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()) {
        Some(addr) if addrs.iter().all(|addr| addr.ip().is_loopback()) => Ok(*addr),
        _ => Err(refused("that is not this machine's loopback, and load is for nobody else")),
    }
}

/// Address and path of a URL with holes, which a parser of URLs would escape.
fn template(url: &str) -> Result<(SocketAddr, String), Failure> {
    let refused = |why: &str| Failure::usage(format!("`{url}`: {why}; bench takes http://127.0.0.1:PORT/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(|| refused("only plain http can be loaded"))?;
    let (authority, path) = rest.split_at(rest.find('/').ok_or_else(|| refused("there is no path"))?);
    if path.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(refused("a path has no blanks and nothing but ASCII"));
    }
    Ok((loopback(&format!("http://{authority}"))?, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::EXIT_USAGE;

    #[test]
    fn only_loopback_is_put_under_load() {
        assert_eq!(loopback("http://127.0.0.1:8090").unwrap(), "127.0.0.1:8090".parse().unwrap());
        assert_eq!(loopback("http://[::1]:8090/").unwrap(), "[::1]:8090".parse().unwrap());
        assert!(loopback("http://localhost:1").unwrap().ip().is_loopback());
        for url in ["http://192.0.2.1:80", "http://10.0.0.1", "https://127.0.0.1", "http://127.0.0.1:1/x", "nonsense"] {
            assert_eq!(loopback(url).unwrap_err().code, EXIT_USAGE, "{url}");
        }
        for url in ["http://192.0.2.1:80/{topic}", "http://127.0.0.1:1", "https://127.0.0.1/x", "http://127.0.0.1/a b"]
        {
            assert_eq!(template(url).unwrap_err().code, EXIT_USAGE, "{url}");
        }
    }

    #[test]
    fn another_server_is_asked_in_its_own_words() {
        let arguments = TargetArguments {
            url: None,
            subscribe_url: Some("http://127.0.0.1:7001/sub/{topic}?x={topic}".into()),
            publish_url: Some("http://127.0.0.1:7002/pub/{topic}".into()),
            publish_body: Some(r#"{"to":"{topic}","what":{data}}"#.into()),
            server_pid: None,
            token: None,
            readers: 1,
        };
        let target = arguments.running().unwrap().expect("it runs");
        let ask = target.ask("t:1", Some("5:0"), 3);
        assert!(ask.request.starts_with("GET /sub/t:1?x=t:1 HTTP/1.1\r\n"), "{}", ask.request);
        assert!(ask.request.contains("\r\nlast-event-id: 5:0\r\n"), "{}", ask.request);
        assert_eq!(target.publishing_addr().unwrap().port(), 7002);
        let (path, body) = target.publication("t:1", "{}");
        assert_eq!((&*path, &*body), ("/pub/t:1", r#"{"to":"t:1","what":{}}"#));

        let bare = TargetArguments { publish_body: None, ..arguments.clone() }.running().unwrap().unwrap();
        assert_eq!(bare.publication("t", "{\"p\":0}").1, "{\"p\":0}");
        let silent = TargetArguments { publish_url: None, publish_body: None, ..arguments }.running().unwrap().unwrap();
        assert!(silent.publishing_addr().unwrap_err().contains("--publish-url"));
    }
}
