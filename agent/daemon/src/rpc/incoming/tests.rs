//! Callers who hold a connection and use it, or do not.

use std::sync::Mutex;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::rpc::KEEPALIVE;

const MINUTE: Duration = Duration::from_mins(1);

/// Not quite as long as a connection may be unused.
const NEARLY: Duration = Duration::from_mins(9);
const _: () = assert!(NEARLY.as_secs() + MINUTE.as_secs() == UNUSED.as_secs());

/// Connections that a test makes.
struct Line(Mutex<mpsc::Receiver<DuplexStream>>);

impl Accept for Line {
    type Socket = DuplexStream;

    const ORIGIN: Origin = Origin::Network;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<DuplexStream>> {
        match ready!(self.0.lock().unwrap().poll_recv(cx)) {
            Some(socket) => Poll::Ready(Ok(socket)),
            None => Poll::Pending,
        }
    }
}

/// Serves health over HTTP/2 as the agent does, with one place; connections come through the sender.
fn serve() -> mpsc::Sender<DuplexStream> {
    let (sender, connections) = mpsc::channel(4);
    tokio::spawn(async move {
        let (_reporter, health) = tonic_health::server::health_reporter();
        let incoming = Incoming::new(Line(Mutex::new(connections)), 1);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(health);
        server.serve_with_incoming(incoming).await
    });
    sender
}

/// A client that answers pings, as each does.
async fn client(line: &mpsc::Sender<DuplexStream>) -> HealthClient<Channel> {
    let (ours, theirs) = duplex(1 << 16);
    line.send(theirs).await.unwrap();
    let ours = Mutex::new(Some(TokioIo::new(ours)));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let ours = ours.lock().unwrap().take();
        async { ours.ok_or_else(|| io::Error::other("it was closed")) }
    });
    let endpoint = Endpoint::from_static("http://agent");
    let channel = endpoint.connect_with_connector(connector).await;
    HealthClient::new(channel.unwrap())
}

async fn asked(client: &mut HealthClient<Channel>) -> Result<(), Status> {
    client.check(HealthCheckRequest::default()).await.map(drop)
}

/// Within so long somebody else is served, and not before.
async fn the_place_is_free_after(
    line: &mpsc::Sender<DuplexStream>,
    least: Duration,
    most: Duration,
) {
    let mut next = client(line).await;
    let begun = Instant::now();
    timeout(most, asked(&mut next))
        .await
        .expect("there was no place")
        .unwrap();
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_only_answers_pings_makes_room() {
    let line = serve();
    let mut first = client(&line).await;
    asked(&mut first).await.unwrap();
    the_place_is_free_after(&line, NEARLY, UNUSED + MINUTE).await;
    assert_eq!(
        asked(&mut first).await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// Anybody may watch health, who has shown no permission.
#[tokio::test(start_paused = true)]
async fn a_watch_of_health_keeps_no_place() {
    let line = serve();
    let mut first = client(&line).await;
    let request = Request::new(HealthCheckRequest::default());
    let mut watch = first.watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    the_place_is_free_after(&line, NEARLY, UNUSED + MINUTE).await;
    watch.message().await.unwrap_err();
}

/// HTTP/2 answers each ping before it reads on: with its answers stuck it reads nothing any more, and no
/// ping of ours is missed.
#[tokio::test(start_paused = true)]
async fn who_reads_nothing_of_the_connection_makes_room() {
    let line = serve();
    let (mut ours, theirs) = duplex(1 << 10);
    line.send(theirs).await.unwrap();
    ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    ours.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap(); // SETTINGS
    let flood = async {
        loop {
            ours.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
                .await
                .unwrap();
        }
    };
    timeout(MINUTE, flood)
        .await
        .expect_err("it reads without end, and sends nothing");
    the_place_is_free_after(&line, Duration::ZERO, 2 * SILENCE).await;
}

/// A connection, and its other end.
fn pair() -> (Connection<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(1 << 16);
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    (Connection::new(ours, Origin::Network, room), theirs)
}

/// Longer than any connection here may stay open; who waits for more waits for ever.
const LONG: Duration = Duration::from_hours(24 * 14);

/// When it is closed, with pings coming all the time.
async fn closed(mut connection: Connection<DuplexStream>, mut theirs: DuplexStream) -> Instant {
    let pings = async {
        loop {
            theirs.write_all(&[0; GREETING_BYTES]).await.unwrap();
            sleep(KEEPALIVE).await;
        }
    };
    let read = async {
        let mut bytes = [0; 64];
        loop {
            match connection.read(&mut bytes).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Instant::now(),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let closed = async {
        tokio::select! { () = pings => unreachable!(), at = read => at }
    };
    timeout(LONG, closed).await.expect("it was never closed")
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_worked_on_keeps_its_connection_for_days() {
    let (connection, theirs) = pair();
    let (begun, peer) = (Instant::now(), connection.connect_info());
    let quiet = async {
        let watch = peer.in_use();
        sleep(MINUTE).await;
        let other = peer.in_use();
        sleep(MINUTE).await;
        drop(other);
        sleep(1_000 * UNUSED).await;
        drop(watch);
    };
    let (at, ()) = tokio::join!(closed(connection, theirs), quiet);
    let (open, end) = (at - begun, 1_000 * UNUSED + 2 * MINUTE + UNUSED);
    assert!(open >= end && open < end + MINUTE, "{open:?}");
}

#[tokio::test(start_paused = true)]
async fn who_calls_now_and_then_keeps_the_connection() {
    let (connection, theirs) = pair();
    let (begun, peer) = (Instant::now(), connection.connect_info());
    let calls = async {
        for _ in 0..20 {
            sleep(NEARLY).await;
            peer.called();
        }
    };
    let (at, ()) = tokio::join!(closed(connection, theirs), calls);
    let (open, end) = (at - begun, 20 * NEARLY + UNUSED);
    assert!(open >= end && open < end + MINUTE, "{open:?}");
}
