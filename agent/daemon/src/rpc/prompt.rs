//! Requests that have begun and do not come.
//!
//! A call has one of the few places ([`super::CALLS_MAX`]) from its first header on, and its caller is
//! asked for a permission only when its message is there. So the message has to come at once.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

/// How long the message of a call may take: four megabytes at most, a hundred bytes as a rule.
const COMES_WITHIN: Duration = Duration::from_secs(10);

/// The same request, whose body has to come in time. Calls that converse (reflection) have as long as
/// they like: they wait for nobody's place.
pub(super) fn prompt(request: Request<Body>) -> Request<Body> {
    if !request.uri().path().starts_with("/sqlrep.v1.") {
        return request;
    }
    request.map(|body| {
        Body::new(Prompt {
            body,
            late: Box::pin(sleep(COMES_WITHIN)),
        })
    })
}

/// A body, and when it is late.
struct Prompt {
    body: Body,
    late: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Prompt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.late.as_mut().poll(cx));
        Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
            "the request did not come within {} s; send all of it",
            COMES_WITHIN.as_secs()
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
