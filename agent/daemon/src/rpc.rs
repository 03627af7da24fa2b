//! The control plane: `sqlrep.v1`, health and reflection over unix sockets and TCP.
//!
//! Handlers send a command to the fleet or read what it says of itself; none touches a file (L9).

mod agent;
mod convert;
mod databases;
mod deadline;
mod guard;
mod incoming;
mod peer;
mod prompt;
mod replicas;
mod status;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Request;
use sqlrep_pipeline::{Fleet, limits};
use sqlrep_proto::v1;
use sqlrep_proto::v1::agent_server::AgentServer;
use sqlrep_proto::v1::databases_server::DatabasesServer;
use sqlrep_proto::v1::replicas_server::ReplicasServer;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tower::layer::util::{Identity as Bare, Stack};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::util::MapRequestLayer;

use crate::adopt::Notes;
use crate::auth::Door;
use crate::config::Config;
use guard::Guard;
use incoming::Incoming;
pub(crate) use peer::{Origin, Peer};
use prompt::prompt;
use stream::Streams;

/// A request names at most some thousand databases.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// A response is a row, or a chunk of at most 1 MiB.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Calls of one connection that are worked on at once.
const CALLS_PER_CONNECTION_MAX: usize = 32;

/// Calls that are worked on at once over TCP, and over each unix socket: root on the node is not kept out
/// by whoever reaches a port.
const CALLS_MAX: usize = 128;

/// Connections that are open at once on one socket.
const CONNECTIONS_MAX: usize = 64;

/// How long an answer may take to begin: a takeover waits two minutes for a restore. A call holds one of
/// [`CALLS_MAX`] places until then.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);
const _: () = assert!(CALL_TIMEOUT.as_secs() > limits::TAKEOVER_TIMEOUT.as_secs());

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection on which nothing answers for this long is closed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What handlers know.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The flow.
    pub(crate) fleet: Fleet,
    /// How the agent was started.
    pub(crate) config: Arc<Config>,
    /// What is wrong with pods' annotations.
    pub(crate) notes: Notes,
    /// When the agent started.
    pub(crate) started: SystemTime,
    /// Streams that may be open at once.
    pub(crate) streams: Streams,
}

impl Node {
    /// What handlers know; streams end when `stop` is cancelled.
    pub(crate) fn new(
        fleet: Fleet,
        config: Arc<Config>,
        notes: Notes,
        stop: CancellationToken,
    ) -> Self {
        Self {
            fleet,
            config,
            notes,
            started: SystemTime::now(),
            streams: Streams::new(stop),
        }
    }
}

/// What is done to a request on its way.
type Map = fn(Request<Body>) -> Request<Body>;

/// What a call passes: its place, and then the time that its message has.
type Layers = Stack<MapRequestLayer<Map>, Stack<GlobalConcurrencyLimitLayer, Bare>>;

/// The services, to be served on any number of sockets.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    node: Node,
    door: Door,
    calls: GlobalConcurrencyLimitLayer,
}

impl Services {
    /// The services over this node, behind this door.
    pub(crate) fn new(node: Node, door: Door) -> Self {
        Self {
            node,
            door,
            calls: GlobalConcurrencyLimitLayer::new(CALLS_MAX),
        }
    }

    /// Serves one unix socket until `stop`, then lets open calls end.
    pub(crate) async fn serve_unix(
        &self,
        listener: tokio::net::UnixListener,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let incoming = Incoming::new(listener, CONNECTIONS_MAX);
        let calls = GlobalConcurrencyLimitLayer::new(CALLS_MAX);
        let router = self.router(None, calls).await?;
        let served = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
        served.await.map_err(io::Error::other)
    }

    /// Serves one TCP address until `stop`, then lets open calls end.
    pub(crate) async fn serve_tcp(
        &self,
        listener: tokio::net::TcpListener,
        tls: Option<ServerTlsConfig>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let incoming = Incoming::new(listener, CONNECTIONS_MAX);
        let router = self.router(tls, self.calls.clone()).await?;
        let served = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
        served.await.map_err(io::Error::other)
    }

    async fn router(
        &self,
        tls: Option<ServerTlsConfig>,
        calls: GlobalConcurrencyLimitLayer,
    ) -> io::Result<Router<Layers>> {
        let (health_reporter, health) = tonic_health::server::health_reporter();
        health_reporter
            .set_serving::<AgentServer<Guard<agent::Service>>>()
            .await;
        health_reporter
            .set_serving::<DatabasesServer<Guard<databases::Service>>>()
            .await;
        health_reporter
            .set_serving::<ReplicasServer<Guard<replicas::Service>>>()
            .await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut server = Server::builder()
            .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .timeout(CALL_TIMEOUT)
            .layer(calls)
            .layer(MapRequestLayer::new(prompt as Map));
        if let Some(tls) = tls {
            server = server.tls_config(tls).map_err(io::Error::other)?;
        }
        let (node, door) = (|| self.node.clone(), || self.door.clone());
        Ok(server
            .add_service(health)
            .add_service(reflection().build_v1().map_err(io::Error::other)?)
            .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
            .add_service(
                AgentServer::new(Guard::new(door(), agent::Service::new(node())))
                    .max_decoding_message_size(REQUEST_BYTES_MAX)
                    .max_encoding_message_size(RESPONSE_BYTES_MAX),
            )
            .add_service(
                DatabasesServer::new(Guard::new(door(), databases::Service::new(node())))
                    .max_decoding_message_size(REQUEST_BYTES_MAX)
                    .max_encoding_message_size(RESPONSE_BYTES_MAX),
            )
            .add_service(
                ReplicasServer::new(Guard::new(door(), replicas::Service::new(node())))
                    .max_decoding_message_size(REQUEST_BYTES_MAX)
                    .max_encoding_message_size(RESPONSE_BYTES_MAX),
            ))
    }
}

/// TLS for addresses other than loopback: clients must show a certificate of our authority.
pub(crate) fn tls(cert: &[u8], key: &[u8], client_ca: &[u8]) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(client_ca))
        .timeout(HANDSHAKE)
}

#[cfg(test)]
mod tests;
