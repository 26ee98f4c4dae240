//! The connection under the HTTP framework, and how a stream takes it over.
//!
//! The framework serves requests on a [`Transport`]. For a response that goes on for hours it would keep two buffers of
//! 8 KiB per connection (actix-http, `h1/dispatcher.rs`: `HW_BUFFER_SIZE`, no setting), copy each frame into one of them
//! and poll its whole state machine per write. So a stream asks for the connection ([`Handover::take_over`]): the
//! framework writes the head of the response, is then told that the client is gone, and frees what it held.
//! A client that begins with the preface of HTTP/2 is left to whoever speaks that ([`Handover::left`]), and one whose
//! request does not come is cut (`head.rs`).
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
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod head;
mod wire;

use self::head::{Late, Mark, Watch};
pub use self::{
    head::{Answering, Heads},
    wire::{Rewound, Wire},
};

/// A connection as the HTTP framework reads and writes it.
pub struct Transport {
    stage: Stage,
    watch: Watch,
    /// What has come of the preface of HTTP/2; `None` once it is known that it is something else.
    preface: Option<Vec<u8>>,
}

/// Asks for the connection of a [`Transport`] on the same thread. Cheap to clone.
#[derive(Clone)]
pub struct Handover {
    stage: Stage,
    mark: Mark,
}

type Stage = Rc<RefCell<At>>;

/// Who has the connection.
enum At {
    /// The framework.
    Served(Wire),
    /// The framework, until it has flushed what it has written.
    Leaving(TakeOver, Wire),
    /// Nobody: it speaks HTTP/2.
    Left(Rewound),
    /// Somebody else.
    Taken,
}

type TakeOver = Box<dyn FnOnce(Wire)>;

/// What a client of HTTP/2 says first when it knows that it is understood (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client hears whose request did not come.
const TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

// === impl Transport ===

impl Transport {
    /// A connection for the framework to serve.
    pub fn new(connection: Wire, heads: Heads) -> Self {
        let preface = matches!(connection, Wire::Plain(_)).then(Vec::new);
        Self { stage: Rc::new(RefCell::new(At::Served(connection))), watch: Watch::new(heads), preface }
    }

    /// What a stream takes it over with.
    pub fn handover(&self) -> Handover {
        Handover { stage: self.stage.clone(), mark: self.watch.mark() }
    }

    fn poll<T>(
        &self,
        served: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>,
        taken: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.stage.borrow_mut() {
            At::Served(connection) | At::Leaving(_, connection) => served(Pin::new(connection)),
            At::Left(_) | At::Taken => Poll::Ready(taken()),
        }
    }

    /// The first bytes decide which HTTP it is. In the usual case that is one look at what has come with the first read.
    fn poll_first(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let begin = buffer.filled().len();
        loop {
            let Some(early) = &mut self.preface else { return Poll::Ready(Ok(())) };
            let mut ended = false;
            if early.is_empty() {
                ready!(read(&self.stage, cx, buffer))?;
                let new = &buffer.filled()[begin..];
                if new.is_empty() || !(new.starts_with(PREFACE) || PREFACE.starts_with(new)) {
                    self.preface = None;
                    return Poll::Ready(Ok(()));
                }
                early.extend_from_slice(new);
                buffer.set_filled(begin);
            } else {
                // What has come before must still find room.
                let mut rest = buffer.take(buffer.remaining() - PREFACE.len());
                ready!(read(&self.stage, cx, &mut rest))?;
                ended = rest.filled().is_empty();
                early.extend_from_slice(rest.filled());
            }
            if early.starts_with(PREFACE) {
                let early = std::mem::take(early);
                self.preface = None;
                let mut stage = self.stage.borrow_mut();
                *stage = match std::mem::replace(&mut *stage, At::Taken) {
                    At::Served(connection) => At::Left(Rewound::new(early, connection)),
                    other => other,
                };
                return Poll::Ready(Ok(()));
            }
            if ended || !PREFACE.starts_with(early) {
                buffer.put_slice(early);
                self.preface = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The head did not come: says so where nothing else is on its way out, and ends the framework's part.
    fn cut(&mut self, late: Late, cx: &mut Context<'_>) -> io::Error {
        if late == Late::Head {
            // As much as the socket takes at once.
            let said = self.poll(|mut io| io.as_mut().poll_write(cx, TOO_LATE), || Ok(0));
            if said.is_ready() {
                let _ = self.poll(|io| io.poll_flush(cx), || Ok(()));
            }
        }
        io::ErrorKind::TimedOut.into()
    }
}

/// Reads; a connection that was taken over looks like one whose client is gone.
fn read(stage: &Stage, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match &mut *stage.borrow_mut() {
        At::Served(connection) | At::Leaving(_, connection) => Pin::new(connection).poll_read(cx, buffer),
        At::Left(_) | At::Taken => Poll::Ready(Ok(())),
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = if self.preface.is_some() { self.poll_first(cx, buffer) } else { read(&self.stage, cx, buffer) };
        if buffer.filled().len() > before {
            self.watch.came();
        }
        done
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|connection| connection.poll_write(cx, bytes), || Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// The framework flushes when it has written all that it had: the moment in which a connection changes hands. Each
    /// flush after it fails, which ends the framework's part for good: with much input behind the request it would not
    /// come to read that the client is gone, and be polled without end (`h1/dispatcher.rs`: `read_available`).
    ///
    /// It flushes at the end of each of its turns, also when it has written nothing: the moment in which a head is whole
    /// or is still waited for.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        ready!(self.poll(|connection| connection.poll_flush(cx), gone))?;
        if let Poll::Ready(late) = self.watch.poll(cx) {
            return Poll::Ready(Err(self.cut(late, cx)));
        }
        let left = match &mut *self.stage.borrow_mut() {
            stage @ At::Leaving(..) => std::mem::replace(stage, At::Taken),
            At::Served(_) | At::Left(_) | At::Taken => return Poll::Ready(Ok(())),
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
    pub fn take_over(&self, take_over: impl FnOnce(Wire) + 'static) {
        let mut stage = self.stage.borrow_mut();
        *stage = match std::mem::replace(&mut *stage, At::Taken) {
            At::Served(connection) | At::Leaving(_, connection) => At::Leaving(Box::new(take_over), connection),
            other => other,
        };
    }

    /// A request has come whole, and is being answered until what this returns is dropped.
    pub fn answering(&self) -> Answering {
        self.mark.answering()
    }

    /// The connection, once it has turned out to speak HTTP/2.
    pub fn left(&self) -> Option<Rewound> {
        let mut stage = self.stage.borrow_mut();
        match std::mem::replace(&mut *stage, At::Taken) {
            At::Left(connection) => Some(connection),
            other => {
                *stage = other;
                None
            }
        }
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn heads() -> Heads {
        Heads::new(Duration::from_secs(5), Duration::from_secs(5))
    }

    /// The node's end of a connection, as the framework has it, and the client's.
    async fn connection() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Transport::new(Wire::Plain(listener.accept().await.unwrap().0), heads()), client)
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

    #[tokio::test]
    async fn a_client_of_http_2_is_known_by_its_first_words_however_they_are_cut() {
        for cut in [1, 3, 14, 23, 24] {
            let (mut transport, mut client) = connection().await;
            let say = async {
                client.write_all(&PREFACE[..cut]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                client.write_all(&PREFACE[cut..]).await.unwrap();
                client.write_all(b"frames").await.unwrap();
                client.shutdown().await.unwrap();
            };
            let ((), seen) = tokio::join!(say, async { transport.read(&mut [0; 1024]).await.unwrap() });
            assert_eq!(seen, 0, "the framework is told that the client is gone");
            let mut text = Vec::new();
            transport.handover().left().expect("it is HTTP/2").read_to_end(&mut text).await.unwrap();
            assert_eq!(text, [PREFACE, b"frames"].concat());
        }
    }

    #[tokio::test]
    async fn what_begins_like_http_2_and_is_not_comes_whole() {
        for words in ["PRI", "PRI * HTTP/1.1\r\n\r\n", "PROPFIND / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\n\r\n"] {
            let (mut transport, mut client) = connection().await;
            let say = async {
                client.write_all(&words.as_bytes()[..2]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                client.write_all(&words.as_bytes()[2..]).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let mut text = Vec::new();
            let ((), read) = tokio::join!(say, transport.read_buf(&mut text));
            read.unwrap();
            while transport.read_buf(&mut text).await.unwrap() > 0 {}
            assert_eq!(String::from_utf8(text).unwrap(), words);
            assert!(transport.handover().left().is_none());
        }
    }
}
