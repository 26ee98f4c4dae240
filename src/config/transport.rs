//! `[server]`: the settings of TLS, HTTP/2 and buffers.

use super::{Error, Server};
use crate::tls::Tls;

impl Server {
    /// Reads the certificate of the settings; `None` if the node serves plain HTTP.
    ///
    /// # Errors
    /// Names the setting, the file and the fault.
    pub fn tls(&self) -> Result<Option<Tls>, Error> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Tls::load(cert, key).map(Some).map_err(Error),
            (Some(_), None) => {
                Err(Error("`server.tls_cert` is set: set `server.tls_key` to the file with its key".into()))
            }
            (None, Some(_)) => {
                Err(Error("`server.tls_key` is set: set `server.tls_cert` to the file with the certificate".into()))
            }
        }
    }

    /// Maximum bytes of history per thread: all threads together may hold a quarter of `max_unsent_bytes`.
    pub fn max_page_bytes(&self) -> usize {
        let threads = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        };
        self.max_unsent_bytes / 4 / threads
    }

    pub(super) fn check_transport(&self) -> Result<(), Error> {
        if self.head_timeout_ms < 100 {
            return Err(Error("`server.head_timeout_ms` must be at least 100".into()));
        }
        if self.http2_max_streams == 0 {
            return Err(Error("`server.http2_max_streams` must be at least 1; browsers expect 100".into()));
        }
        if self.http2_max_answering == 0 {
            return Err(Error("`server.http2_max_answering` must be at least 1".into()));
        }
        if self.max_unsent_bytes < 1 << 20 {
            return Err(Error("`server.max_unsent_bytes` must be at least 1048576".into()));
        }
        self.tls().map(drop)
    }
}
