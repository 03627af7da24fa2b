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

use super::peer::{Origin, Peer, UNUSED};

/// After a failed accept (no descriptors left) the next is tried this much later.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long the beginning of a conversation may take.
const GREETING: Duration = Duration::from_secs(10);

/// The shortest beginning: the first bytes of HTTP/2, or of TLS.
const GREETING_BYTES: usize = 24;

/// How long nothing may come after that. Who is only idle answers the pings of [`super::KEEPALIVE`].
const SILENCE: Duration = Duration::from_secs(75);
const _: () = assert!(SILENCE.as_secs() > 2 * super::KEEPALIVE.as_secs());

/// How long what is to be sent may wait for a caller who takes nothing of it. HTTP/2 reads on only when
/// its answers to pings are gone, so that no other bound is looked at meanwhile.
const STUCK: Duration = SILENCE;

/// A socket that connections come from.
pub(super) trait Accept: Unpin {
    /// A connection.
    type Socket;

    /// Where they come from.
    const ORIGIN: Origin;

    /// The next one.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Socket>>;
}

impl Accept for UnixListener {
    type Socket = UnixStream;

    const ORIGIN: Origin = Origin::Node;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(socket, _)| socket)
    }
}

impl Accept for TcpListener {
    type Socket = TcpStream;

    const ORIGIN: Origin = Origin::Network;

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
                    let room = self.permit.take();
                    let connection = room.map(|room| Connection::new(socket, L::ORIGIN, room));
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
    peer: Peer,
    /// When it was not used for too long, as far as is known.
    unused: Pin<Box<Sleep>>,
    /// Something waits to be sent: when it has waited for too long.
    stuck: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(socket: S, origin: Origin, room: OwnedSemaphorePermit) -> Self {
        Self {
            socket,
            heard: 0,
            silence: Box::pin(sleep(GREETING)),
            peer: Peer::new(origin),
            unused: Box::pin(sleep(UNUSED)),
            stuck: None,
            _room: room,
        }
    }

    /// Ready when it was not used for too long.
    fn poll_unused(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.unused.as_mut().poll(cx));
            let over_at = self.peer.over_at();
            if over_at <= Instant::now() {
                return Poll::Ready(());
            }
            self.unused.as_mut().reset(over_at);
        }
    }

    /// What came of an attempt to send, or that nothing was taken for too long.
    fn or_stuck<T>(
        &mut self,
        cx: &mut Context<'_>,
        sent: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.stuck = None;
            return sent;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(STUCK)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_unused(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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
        let sent = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.or_stuck(cx, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.socket).poll_flush(cx);
        self.or_stuck(cx, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
