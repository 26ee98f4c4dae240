//! The work of a relay by a well-known program: nginx as a reverse proxy for event streams, if it is installed.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{clock::pause, process::Process};

/// An nginx of this measurement; it ends when this is dropped.
pub(super) struct Nginx {
    process: Process,
    pub addr: SocketAddr,
}

/// Limit for its start.
const START_TIME: Duration = Duration::from_secs(10);

// === impl Nginx ===

impl Nginx {
    /// Starts one in front of the source; `None` if it is not installed.
    ///
    /// # Errors
    /// When it is installed but does not listen in time.
    pub(super) fn start(dir: &Path, source: SocketAddr) -> Result<Option<Self>, String> {
        let failed = |error: std::io::Error| format!("nginx cannot be started: {error}");
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|port| port.local_addr()).map_err(failed)?;
        fs::create_dir_all(dir).map_err(failed)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, settings(dir, addr, source)).map_err(failed)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(&config).args(["-e", "stderr"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match Process::start(&mut command) {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let until = Instant::now() + START_TIME;
        while TcpStream::connect(addr).is_err() {
            if Instant::now() > until || !process.runs() {
                return Err("nginx does not listen".into());
            }
            pause(Duration::from_millis(20));
        }
        Ok(Some(Self { process, addr }))
    }

    /// Its process number. There is one process, without a master.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// The settings that its documentation recommends for event streams: no buffering, HTTP/1.1 upstream.
fn settings(dir: &Path, addr: SocketAddr, source: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    tcp_nodelay on;
    server {{
        listen {addr};
        location / {{
            proxy_pass http://{source};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_cache off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"
    )
}
