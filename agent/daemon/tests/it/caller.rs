//! Calls byte by byte: HTTP/2 as it should be, and within it whatever a test likes.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Code;

/// How long anything may take that is answered at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pieces of a body, as they come.
type Pieces = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
/// A body.
pub(crate) type Body = StreamBody<Pieces>;

/// A connection; it ends when dropped.
pub(crate) struct Caller {
    sender: SendRequest<Body>,
    connection: JoinHandle<()>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// These bytes and the end.
pub(crate) fn whole(bytes: Vec<u8>) -> Body {
    pieces(vec![bytes], Duration::ZERO)
}

/// These, one after the other, and the end.
pub(crate) fn pieces(pieces: Vec<Vec<u8>>, between: Duration) -> Body {
    let pieces = tokio_stream::iter(pieces).then(move |piece| async move {
        sleep(between).await;
        Ok(Frame::data(Bytes::from(piece)))
    });
    StreamBody::new(Box::pin(pieces))
}

/// These bytes, and then nothing, and no end.
pub(crate) fn half(bytes: Vec<u8>) -> Body {
    let first = tokio_stream::iter([Ok(Frame::data(Bytes::from(bytes)))]);
    StreamBody::new(Box::pin(first.chain(tokio_stream::pending())))
}

/// A message as gRPC frames it, of the length that is claimed.
pub(crate) fn framed(message: &[u8], claimed: u32) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(claimed.to_be_bytes());
    bytes.extend(message);
    bytes
}

/// The same, truthfully.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    framed(message, u32::try_from(message.len()).unwrap())
}

impl Caller {
    /// Connects. `window` is what a stream may send before it is read.
    pub(crate) async fn connect(port: u16, window: u32) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { sender, connection }
    }

    /// Begins a call: what comes back first.
    pub(crate) async fn begin(&self, path: &str, body: Body) -> hyper::Result<Response<Incoming>> {
        // One that never ends by itself is waited for a moment.
        let patience = if path.ends_with("/Watch") {
            "300m"
        } else {
            "5S"
        };
        self.patiently(path, body, patience).await
    }

    /// Begins a call that has so much time.
    pub(crate) async fn patiently(
        &self,
        path: &str,
        body: Body,
        patience: &str,
    ) -> hyper::Result<Response<Incoming>> {
        let request = Request::post(format!("http://agent.invalid{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", patience);
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request.body(body).unwrap()).await
    }

    /// Makes a call, and reads its answer to the end: its code, its words, and how many bytes came.
    pub(crate) async fn call(&self, path: &str, body: Body) -> Result<(Code, String, u64), String> {
        let ended = async {
            let answer = self
                .begin(path, body)
                .await
                .map_err(|error| format!("{error:?}"))?;
            let (head, mut body) = answer.into_parts();
            let (mut bytes, mut last) = (0, head.headers);
            while let Some(frame) = body.frame().await {
                match frame.map_err(|error| format!("{error:?}"))?.into_data() {
                    Ok(data) => bytes += data.len() as u64,
                    Err(frame) => last = frame.into_trailers().unwrap_or_default(),
                }
            }
            let text = |name: &str| Some(last.get(name)?.to_str().ok()?.to_owned());
            let code = text("grpc-status").ok_or("no grpc-status")?;
            let code = Code::from_bytes(code.as_bytes());
            Ok((code, text("grpc-message").unwrap_or_default(), bytes))
        };
        timeout(PATIENCE, ended)
            .await
            .map_err(|_| "no answer".to_owned())?
    }
}
