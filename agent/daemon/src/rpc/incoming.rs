//! Accepted connections, a bounded number of them.
//!
//! Past the bound nothing is accepted until a connection ends: callers wait in the kernel's queue. So
//! one that says nothing is ended: it would hold a place for ever, and has shown no permission.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tokio_util::sync::PollSemaphore;
use tonic::transport::server::Connected;

/// After a failed accept (no descriptors left) the next is tried this much later.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long the beginning of a conversation may take.
const GREETING: Duration = Duration::from_secs(10);

/// The shortest beginning: the first bytes of HTTP/2, or of TLS.
const GREETING_BYTES: usize = 24;

/// How long nothing may come after that. Who is only idle answers the pings of [`super::KEEPALIVE`].
const SILENCE: Duration = Duration::from_secs(75);
const _: () = assert!(SILENCE.as_secs() > 2 * super::KEEPALIVE.as_secs());

/// A socket that connections come from.
pub(super) trait Accept: Unpin {
    /// A connection.
    type Socket;

    /// The next one.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Socket>>;
}

impl Accept for UnixListener {
    type Socket = UnixStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(socket, _)| socket)
    }
}

impl Accept for TcpListener {
    type Socket = TcpStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let (socket, _) = ready!(self.poll_accept(cx))?;
        // Small messages go both ways; waiting for more of them only adds delay.
        Poll::Ready(socket.set_nodelay(true).map(|()| socket))
    }
}

/// The connections of one socket; dropping it closes the socket at once.
#[derive(Debug)]
pub(super) struct Incoming<L> {
    listener: L,
    room: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,
    retry: Option<Pin<Box<Sleep>>>,
}

impl<L: Accept> Incoming<L> {
    /// Accepts at most `most` connections at once.
    pub(super) fn new(listener: L, most: usize) -> Self {
        let room = PollSemaphore::new(Arc::new(Semaphore::new(most)));
        Self {
            listener,
            room,
            permit: None,
            retry: None,
        }
    }
}

impl<L: Accept> Stream for Incoming<L> {
    type Item = io::Result<Connection<L::Socket>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(retry) = &mut self.retry {
                ready!(retry.as_mut().poll(cx));
                self.retry = None;
            }
            if self.permit.is_none() {
                self.permit = ready!(self.room.poll_acquire(cx));
            }
            match ready!(self.listener.poll_next(cx)) {
                Ok(socket) => {
                    let connection = self.permit.take().map(|room| Connection {
                        socket,
                        heard: 0,
                        silence: Box::pin(sleep(GREETING)),
                        _room: room,
                    });
                    return Poll::Ready(connection.map(Ok));
                }
                Err(error) => {
                    tracing::debug!(err = %error, "cannot accept a connection");
                    self.retry = Some(Box::pin(sleep(ACCEPT_RETRY)));
                }
            }
        }
    }
}

/// One connection; its end makes room for another.
#[derive(Debug)]
pub(super) struct Connection<S> {
    socket: S,
    /// Bytes of its beginning.
    heard: usize,
    /// When it has said nothing for too long.
    silence: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buffer) {
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            read @ Poll::Ready(_) => {
                self.heard = self.heard.saturating_add(buffer.filled().len() - before);
                if self.heard >= GREETING_BYTES {
                    self.silence.as_mut().reset(Instant::now() + SILENCE);
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
