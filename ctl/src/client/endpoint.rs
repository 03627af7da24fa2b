//! Where an agent listens, and the road to it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};

use super::tls::Tls;
use crate::cluster::Forward;
use crate::failure::{Failure, Result};

/// A socket on this node answers at once or never.
const CONNECT: Duration = Duration::from_secs(5);
/// Through the API server and a kubelet.
const FORWARD: Duration = Duration::from_secs(10);
/// Pings tell a dead agent from one that is busy with a large replica.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a ping may go unanswered.
const PING_ANSWER: Duration = Duration::from_secs(20);

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A socket on this machine.
    Unix(PathBuf),
    /// A host name or address, and a port.
    Tcp {
        /// The host, brackets included where it is an IPv6 address.
        host: String,
        /// The port.
        port: u16,
        /// With what TLS; without it in the clear.
        tls: Option<Box<Tls>>,
    },
    /// The pod of an agent, through the cluster's API.
    Pod(Box<Forward>),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            Err(format!(
                "{text:?} {why}; accepted are unix:PATH and HOST:PORT"
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // unix:///run/x is how other tools write it.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                refuse("names no socket")
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        if text.contains("://") {
            return refuse("is a URL");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse("has no port");
        };
        let Some(port) = port.parse().ok().filter(|port| *port != 0) else {
            return refuse("has no valid port");
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let uri = format!("http://{host}:{port}").parse::<Uri>().ok();
        let whole = uri.is_some_and(|uri| uri.host() == Some(host) && uri.path() == "/");
        if host.is_empty() || (host.contains(':') && !bracketed) || !whole {
            return refuse("has no valid host");
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
            tls: None,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Pod(forward) => forward.fmt(f),
        }
    }
}

impl Endpoint {
    /// The same by TLS.
    pub(crate) fn with_tls(self, tls: Tls) -> Result<Self> {
        match self {
            Self::Tcp { host, port, .. } => Ok(Self::Tcp {
                host,
                port,
                tls: Some(Box::new(tls)),
            }),
            Self::Unix(_) | Self::Pod(_) => Err(Failure::usage(format!(
                "--tls-ca: {self} is no HOST:PORT, and TLS is for those"
            ))),
        }
    }

    /// Whether nobody on the way can read what is sent there: it stays on this machine, or goes
    /// through TLS, the agent's or the API server's.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Unix(_) | Self::Pod(_) | Self::Tcp { tls: Some(_), .. } => true,
            Self::Tcp { host, .. } => {
                let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                host == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// Opens the connection.
    pub(super) async fn connect(&self) -> Result<Channel> {
        let uri = match self {
            // The authority of a socket or a pod is never resolved.
            Self::Unix(_) | Self::Pod(_) => "http://agent.invalid".to_owned(),
            Self::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{host}:{port}")
            }
        };
        let mut road = Channel::from_shared(uri)
            .map_err(|error| Failure::usage(format!("{self} is no address")).caused_by(error))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .user_agent(concat!("sqlrepctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Failure::failed("cannot name ourselves").caused_by(error))?;
        if let Self::Tcp {
            host,
            tls: Some(tls),
            ..
        } = self
        {
            let with = road.tls_config(tls.config(host)?);
            road = with.map_err(|error| {
                Failure::usage("--tls-ca, --tls-cert, --tls-key: not what TLS takes")
                    .caused_by(error)
            })?;
        }
        let connected = match self {
            Self::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                road.connect_with_connector(connector).await
            }
            Self::Tcp { .. } => road.connect().await,
            Self::Pod(forward) => {
                let forward = forward.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let forward = forward.clone();
                    async move { forward.open().await.map(TokioIo::new) }
                });
                road.connect_timeout(FORWARD)
                    .connect_with_connector(connector)
                    .await
            }
        };
        connected.map_err(|error| self.unreachable(&error))
    }

    /// Says what stands in the way, and what to do about it.
    fn unreachable(&self, error: &(dyn Error + 'static)) -> Failure {
        let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
        let kind = io.map(io::Error::kind);
        let because = io.map_or_else(
            || {
                causes(error)
                    .last()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            },
            ToString::to_string,
        );
        let tls = match self {
            Self::Tcp { tls: Some(tls), .. } => tls.hint(&because),
            _ => None,
        };
        let hint = match (self, kind) {
            _ if tls.is_some() => tls.unwrap_or_default(),
            (Self::Unix(path), Some(io::ErrorKind::NotFound)) => format!(
                "there is no socket {0}: start the agent with --listen unix:{0}, or name the \
                 socket it has",
                path.display()
            ),
            (Self::Unix(_), Some(io::ErrorKind::PermissionDenied)) => {
                "this user may not open the socket: run as the user of the agent, or as root"
                    .to_owned()
            }
            (Self::Unix(_) | Self::Tcp { .. }, Some(io::ErrorKind::ConnectionRefused)) => {
                "nobody listens there: is the agent running, and is this its --listen?".to_owned()
            }
            (Self::Unix(_), _) => "is it the socket of an agent?".to_owned(),
            (Self::Tcp { .. }, _) => {
                "check host and port, and that nothing between blocks them".to_owned()
            }
            (Self::Pod(_), _) => "it takes the permission to create pods/portforward in the \
                                  namespace of sqlrep, and a kubelet that answers"
                .to_owned(),
        };
        Failure::unreachable(format!("cannot connect to the agent at {self}: {because}")).hint(hint)
    }
}

/// An error and all that caused it.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        text.parse::<Endpoint>()
            .map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn endpoints_are_sockets_or_ports() {
        for (text, shown) in [
            ("unix:/run/sqlrep.sock", "unix:/run/sqlrep.sock"),
            ("unix:///run/sqlrep.sock", "unix:/run/sqlrep.sock"),
            ("unix:relative.sock", "unix:relative.sock"),
            ("localhost:9000", "localhost:9000"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(shown), "{text}");
        }
        for text in [
            "",
            "unix:",
            "host",
            "host:",
            ":9000",
            "host:0",
            "host:70000",
            "http://host:1",
            "::1:9000",
            "a/b:1",
            "a b:1",
            "user@host:1",
            "[::1:9000",
        ] {
            assert!(
                parsed(text)
                    .unwrap_err()
                    .contains("unix:PATH and HOST:PORT"),
                "{text}"
            );
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_private_without_tls() {
        let local = |text: &str| text.parse::<Endpoint>().unwrap().is_private();
        assert!(local("unix:/x") && local("localhost:1") && local("127.0.0.9:1"));
        assert!(local("[::1]:1"));
        assert!(!local("10.0.0.1:1") && !local("agent.example:1"));
        let tls = || Tls {
            ca: PathBuf::from("a"),
            cert: PathBuf::from("c"),
            key: PathBuf::from("k"),
        };
        let with = |text: &str| text.parse::<Endpoint>().unwrap().with_tls(tls());
        assert!(with("10.0.0.1:1").unwrap().is_private());
        assert_eq!(
            with("unix:/x").unwrap_err().exit,
            crate::failure::Exit::Usage
        );
    }
}
