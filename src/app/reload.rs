//! What a running node takes over of changed settings.

use super::Node;
use crate::{
    config::{self, Config},
    hub,
    tls::Tls,
};

impl Node {
    /// Puts in force what of these settings can change without a restart: the static tokens and the certificate. Streams
    /// that came with a token that is gone or changed end with `token_expired`; everything else needs a restart, and is
    /// said to.
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
            tracing::error!(%error, "the certificate cannot be read again; the one before it stays");
        }
        if self.config.changed_beside_tokens(config) {
            tracing::warn!("other settings have changed too; they come into force at the next start");
        }
    }

    /// Reads `server.tls_cert` and `server.tls_key` again; nothing to do where the node speaks plain HTTP. New connections
    /// see the new certificate, open ones go on. The node also notices by itself, within seconds, that the files have
    /// changed. Reads files: not for an async thread.
    ///
    /// # Errors
    /// Says what is wrong with the files; the certificate before stays.
    pub fn reload_tls(&self) -> Result<(), config::Error> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload).map_err(config::Error)
    }
}
