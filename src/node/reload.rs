//! Reload of settings while the node runs.

use super::Node;
use crate::{
    config::{self, Config},
    hub,
    tls::Tls,
};

impl Node {
    /// Applies the settings that can change without a restart: the static tokens and the certificate. Streams whose
    /// token was removed or changed end with `token_expired`. Other changed settings need a restart, which a log line
    /// reports.
    pub async fn reload(&self, config: &Config) {
        let gone = self.access.reload(&config.access.tokens);
        let mut streams = 0;
        for name in &gone {
            streams += self.hub.disconnect(hub::Selector::Token(name.clone()), hub::Reason::TokenExpired).await;
        }
        let (tokens, revoked) = (config.access.tokens.len(), gone.join(", "));
        tracing::info!(target: "millstream::audit", tokens, revoked, streams, "static tokens were read again");
        let node = self.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || node.reload_tls()).await {
            tracing::error!(%error, "the certificate cannot be read again; the previous one stays in use");
        }
        if self.config.changed_beside_tokens(config) {
            tracing::warn!("other settings have changed too; they apply after the next start");
        }
    }

    /// Reads `server.tls_cert` and `server.tls_key` again; does nothing if the node uses plain HTTP. New connections
    /// use the new certificate, open connections continue. The node also detects changed files itself, within seconds.
    /// This function reads files, so do not call it on an async thread.
    ///
    /// # Errors
    /// If the files are not valid; the previous certificate stays in use.
    pub fn reload_tls(&self) -> Result<(), config::Error> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload).map_err(config::Error)
    }
}
