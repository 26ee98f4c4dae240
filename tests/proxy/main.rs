//! The transparent proxy: the client gets the bytes of the upstream, and each end of one side is an end of the other
//! side.

use std::{io::Write, net::TcpStream};

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod ends;
mod loops;
mod refusals;

use support::{Node, Reply, eventually, upstream::Upstream};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A node that may ask this upstream for everything.
fn node(upstream: &Upstream, settings: &str) -> Node {
    Node::start(&format!("[remotes.up]\nbase_url = \"{}\"\npaths = [\"/*\"]\n{settings}", upstream.url("")))
}

fn chunk(socket: &mut TcpStream, bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    socket.write_all(&framed).is_ok()
}

fn open(socket: &mut TcpStream) {
    // The client may have gone; that is its right.
    let _ = socket.write_all(HEAD.as_bytes());
}

/// Whatever comes of the response until the connection closes; the body without its chunks.
fn whole(node: &Node, path: &str, headers: &[(&str, &str)]) -> Reply {
    node.request("GET", path, headers, "")
}

fn until(condition: impl Fn() -> bool) {
    eventually(|| condition().then_some(()));
}
