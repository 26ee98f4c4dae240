//! The connection under the HTTP framework, and how a stream takes it over.
//!
//! The framework serves requests on a [`Transport`]. For a response that goes on for hours it would keep two buffers of
//! 8 KiB per connection (actix-http, `h1/dispatcher.rs`: `HW_BUFFER_SIZE`, no setting), copy each frame into one of them
//! and poll its whole state machine per write. So a stream asks for the connection ([`Handover::take_over`]): the
//! framework writes the head of the response, is then told that the client is gone, and frees what it held.
//!
//! ```text
//!  accept ─> Transport ──> framework: request, response head ──flush──> take over: Transport is an empty husk
//!                │                                                          │
//!                └── Handover, kept with the connection's data ─────────────┴──> the stream owns the socket
//! ```

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection as the HTTP framework reads and writes it.
pub struct Transport {
    stage: Stage,
}

/// Asks for the connection of a [`Transport`] on the same thread. Cheap to clone.
#[derive(Clone)]
pub struct Handover {
    stage: Stage,
}

type Stage = Rc<RefCell<At>>;

/// Who has the connection.
enum At {
    /// The framework.
    Served(TcpStream),
    /// The framework, until it has flushed what it has written.
    Leaving(TakeOver, TcpStream),
    /// Somebody else.
    Taken,
}

type TakeOver = Box<dyn FnOnce(TcpStream)>;

// === impl Transport ===

impl Transport {
    /// A connection for the framework to serve.
    pub fn new(connection: TcpStream) -> Self {
        Self { stage: Rc::new(RefCell::new(At::Served(connection))) }
    }

    /// What a stream takes it over with.
    pub fn handover(&self) -> Handover {
        Handover { stage: self.stage.clone() }
    }

    /// Looks at the connection, as long as it is here.
    pub fn with<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> Option<T> {
        match &*self.stage.borrow() {
            At::Served(connection) | At::Leaving(_, connection) => Some(look(connection)),
            At::Taken => None,
        }
    }

    fn poll<T>(
        &self,
        served: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
        taken: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.stage.borrow_mut() {
            At::Served(connection) | At::Leaving(_, connection) => served(Pin::new(connection)),
            At::Taken => Poll::Ready(taken()),
        }
    }
}

impl AsyncRead for Transport {
    /// A connection that was taken over looks like one whose client is gone.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|connection| connection.poll_read(cx, buffer), || Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|connection| connection.poll_write(cx, bytes), || Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// The framework flushes when it has written all that it had: the moment in which a connection changes hands. Each
    /// flush after it fails, which ends the framework's part for good: with much input behind the request it would not
    /// come to read that the client is gone, and be polled without end (`h1/dispatcher.rs`: `read_available`).
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        std::task::ready!(self.poll(|connection| connection.poll_flush(cx), gone))?;
        let left = match &mut *self.stage.borrow_mut() {
            stage @ At::Leaving(..) => std::mem::replace(stage, At::Taken),
            At::Served(_) | At::Taken => return Poll::Ready(Ok(())),
        };
        if let At::Leaving(take_over, connection) = left {
            take_over(connection);
            // So that the framework notices, and lets go.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|connection| connection.poll_shutdown(cx), || Ok(()))
    }
}

// === impl Handover ===

impl Handover {
    /// Gives the connection away as soon as the framework has flushed what it has written. Whoever takes it must not wait
    /// in `take_over`. If the framework gives the connection up before, `take_over` is dropped.
    pub fn take_over(&self, take_over: impl FnOnce(TcpStream) + 'static) {
        let mut stage = self.stage.borrow_mut();
        *stage = match std::mem::replace(&mut *stage, At::Taken) {
            At::Served(connection) | At::Leaving(_, connection) => At::Leaving(Box::new(take_over), connection),
            At::Taken => At::Taken,
        };
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The node's end of a connection, as the framework has it, and the client's.
    async fn connection() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Transport::new(listener.accept().await.unwrap().0), client)
    }

    #[tokio::test]
    async fn a_connection_changes_hands_when_all_that_was_written_is_flushed() {
        let (mut transport, mut client) = connection().await;
        let taken = Rc::new(RefCell::new(None));
        let keep = taken.clone();
        transport.handover().take_over(move |connection| drop(keep.replace(Some(connection))));
        transport.write_all(b"head").await.unwrap();
        assert!(taken.borrow().is_none(), "the framework still has it");
        transport.flush().await.unwrap();
        let mut connection = taken.take().expect("it was handed over");
        assert_eq!(transport.read(&mut [0; 8]).await.unwrap(), 0, "the framework is told that the client is gone");
        assert!(transport.write_all(b"more").await.is_err());
        assert!(transport.flush().await.is_err(), "else it would poll without end");
        transport.shutdown().await.unwrap();
        drop(transport);
        connection.write_all(b", body").await.unwrap();
        drop(connection);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "head, body", "what the framework did to its end had no effect");
    }

    #[tokio::test]
    async fn what_the_framework_gives_up_is_taken_over_by_nobody() {
        struct Dropped(Rc<Cell<bool>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let (transport, _client) = connection().await;
        let gone = Rc::new(Cell::new(false));
        let guard = Dropped(gone.clone());
        let handover = transport.handover();
        handover.take_over(move |_| drop(guard));
        drop(transport);
        assert!(!gone.get(), "somebody still holds the connection");
        drop(handover);
        assert!(gone.get());
    }
}
