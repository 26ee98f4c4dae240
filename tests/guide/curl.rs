//! `curl`, fed with examples in the guide's notation.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use crate::support::Node;

/// A running curl; killed when dropped.
pub(crate) struct Curl {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

// === impl Curl ===

impl Curl {
    /// Sends an example in the guide's notation.
    pub(crate) fn send(node: &Node, example: &str) -> Self {
        let example = filled(node, example);
        let (head, body) = example.split_once("\n\n").unwrap_or((&example, ""));
        let mut lines = head.lines();
        let (method, url) = lines.next().and_then(|line| line.split_once(' ')).expect("method and URL");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-N", "-i", "--noproxy", "*", "-X", method, url]);
        for header in lines {
            curl.args(["-H", header.strip_prefix("Headers: ").unwrap_or(header)]);
        }
        if !body.is_empty() {
            curl.args(["--data-binary", body]);
        }
        Self::spawn(curl)
    }

    pub(crate) fn spawn(mut curl: Command) -> Self {
        let mut child = curl.stdout(Stdio::piped()).spawn().expect("curl is installed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The rest of the output, up to and with the line that begins so; all of it where none does.
    pub(crate) fn until(&mut self, beginning: &str) -> String {
        let mut text = String::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            text.push_str(&line);
            text.push('\n');
            if line.starts_with(beginning) {
                break;
            }
        }
        text
    }

    /// The data of the next event of this name.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.until(&format!("event: {name}"));
        let block = self.until("data: ");
        let data = block.lines().last().and_then(|line| line.strip_prefix("data: "));
        serde_json::from_str(data.unwrap_or_else(|| panic!("no event {name}: {block}"))).expect("JSON")
    }

    /// Status and JSON of an answer that ends.
    pub(crate) fn answer(mut self) -> (String, Value) {
        let text = self.until("no line begins so");
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let status = head.lines().next().unwrap_or_default().trim().to_owned();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Waits for curl's own end; true when the response was whole.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.child.wait().expect("curl ends").success()
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example with what the guide leaves open.
pub(crate) fn filled(node: &Node, example: &str) -> String {
    let port = format!("localhost:{}", node.addr.port());
    let example = example.replace("localhost:8090", &port).replace("localhost:8080", &port);
    // The token names the user in open mode.
    example.replace("{token}", "123").replace("{userId}", "123").replace("{groupId}", "chat-room-1")
}
