//! Log lines of tests, kept in memory.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use tracing::Dispatch;

use super::{EnvFilter, Format, Lines, dispatch, log_panic};

/// Lines of a subscriber so far.
pub(crate) struct Captured {
    lines: Lines,
    out: Out,
}

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

// === impl Captured ===

impl Captured {
    /// A subscriber with this filter, and its lines.
    pub(crate) fn start(filter: &str, form: Format, colours: bool) -> (Self, Dispatch) {
        let out = Out::default();
        let lines = Lines::start(1 << 20, form, out.clone()).unwrap();
        let dispatch = dispatch(EnvFilter::try_new(filter).unwrap(), form, colours, lines.clone());
        (Self { lines, out }, dispatch)
    }

    /// The panics of all tests of this process since the first call. They are also reported as before.
    pub(crate) fn panics() -> &'static Self {
        static PANICS: LazyLock<Captured> = LazyLock::new(|| {
            let filter = "off,millstream::telemetry=error,millstream::spans=error";
            let (captured, dispatch) = Captured::start(filter, Format::Text, false);
            tracing::dispatcher::set_global_default(dispatch).unwrap();
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                log_panic(info);
                before(info);
            }));
            captured
        });
        &PANICS
    }

    pub(crate) fn text(&self) -> String {
        self.lines.flush(Duration::from_secs(20));
        String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
