//! HTTP servers whose requests are expected: wiremock for tests without a runtime.
//!
//! Responses are whole and correctly framed. Pauses, cut bodies and other broken bytes need `upstream.rs`.
#![expect(dead_code, reason = "each test file uses its part")]

use futures::executor::block_on;
use wiremock::{Mock, MockGuard, MockServer};

/// A server on a port of its own. When it is dropped, it checks the expected number of requests of each mock.
pub(crate) struct Mocked(MockServer);

// === impl Mocked ===

impl Mocked {
    /// Starts a server with these mocks. A request that matches none of them gets 404.
    pub(crate) fn start(mocks: impl IntoIterator<Item = Mock>) -> Self {
        let server = block_on(MockServer::start());
        for mock in mocks {
            block_on(server.register(mock));
        }
        Self(server)
    }

    /// Adds a mock. Dropping the guard removes the mock and checks its expected number of requests.
    pub(crate) fn scoped(&self, mock: Mock) -> MockGuard {
        block_on(self.0.register_as_scoped(mock))
    }

    /// An absolute URL of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.uri())
    }

    /// The setting that permits tasks to reach it.
    pub(crate) fn allowed(&self) -> String {
        format!("[egress]\nallow = [\"{}\"]\n", self.0.address())
    }
}
