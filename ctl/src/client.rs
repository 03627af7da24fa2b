//! Talks to one agent: requests with deadlines, answers in our own types, errors with exit codes.

mod convert;
mod download;
mod endpoint;
mod status;
mod tls;
mod work;

use std::ffi::OsStr;
use std::future::Future;
use std::time::Duration;

use sqlrep_format::{Timestamp, Txid};
use sqlrep_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::download::Download;
pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::tls::Tls;
pub(crate) use self::work::{QuickCheck, Step, Verified};
use crate::database::{Database, Id, Replica, Wanted};
use crate::failure::{Failure, Result};
use crate::history::History;

/// Questions that are answered from memory.
const QUICK: Duration = Duration::from_secs(10);
/// Questions for which the agent has to list directories of the replica.
const LISTING: Duration = Duration::from_secs(30);
/// Above any cluster that one agent serves, below what hurts this process (L12).
const ANSWERS_MAX: usize = 1_000_000;

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

/// The agent that answers.
#[derive(Debug)]
pub(crate) struct Info {
    /// Version of sqlrep.
    pub(crate) version: String,
    /// Version of the SQLite that it links.
    pub(crate) sqlite_version: String,
    /// Its node.
    pub(crate) node: String,
    /// Where it keeps replicas.
    pub(crate) replica_root: String,
    /// Databases it knows.
    pub(crate) databases: u32,
    /// When it started.
    pub(crate) started: Option<Timestamp>,
    /// What it needs, and whether it has it.
    pub(crate) health: Vec<Health>,
}

/// One thing that the agent needs.
#[derive(Debug)]
pub(crate) struct Health {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is as it should be.
    pub(crate) ok: bool,
    /// What was found.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// A step of a watch.
#[derive(Debug)]
pub(crate) enum Change {
    /// A database that is new or changed.
    Changed(Box<Database>),
    /// A database that the agent forgot.
    Gone(Id),
    /// All have been sent once.
    CaughtUp,
}

/// Messages of a stream, until its deadline.
#[derive(Debug)]
struct Messages<M> {
    stream: Streaming<M>,
    what: &'static str,
    until: Option<Instant>,
}

impl<M> Messages<M> {
    /// The next message; `None` at the orderly end.
    async fn next(&mut self) -> Result<Option<M>> {
        within(self.until, self.what, self.stream.message()).await
    }

    /// All messages, converted.
    async fn all<T>(mut self, convert: impl Fn(M) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await? {
            if all.len() >= ANSWERS_MAX {
                return Err(convert::nonsense("an answer without end"));
            }
            all.push(convert(message)?);
        }
        Ok(all)
    }
}

/// Waits for an answer, but not past the deadline.
async fn within<T>(
    until: Option<Instant>,
    what: &str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T> {
    let answered = match until {
        Some(until) => timeout_at(until, answer)
            .await
            .map_err(|_| status::too_late(what))?,
        None => answer.await,
    };
    answered.map_err(|error| status::failure(what, &error))
}

impl Client {
    /// Connects to an agent; the token goes along with every request.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        token: Option<&OsStr>,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let token = token.map(|token| bearer(token, endpoint)).transpose()?;
        let channel = endpoint.connect().await?;
        Ok(Self {
            channel,
            token,
            timeout,
        })
    }

    fn databases(&self) -> v1::databases_client::DatabasesClient<Channel> {
        v1::databases_client::DatabasesClient::new(self.channel.clone())
    }

    /// The request with token and deadline, and the deadline.
    fn request<M>(&self, message: M, usual: Option<Duration>) -> (Request<M>, Option<Instant>) {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        let limit = self.timeout.or(usual);
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        (
            request,
            limit.and_then(|limit| Instant::now().checked_add(limit)),
        )
    }

    async fn stream<M>(
        what: &'static str,
        until: Option<Instant>,
        call: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    ) -> Result<Messages<M>> {
        let stream = within(until, what, call).await?.into_inner();
        Ok(Messages {
            stream,
            what,
            until,
        })
    }

    /// Who answers, and how it fares.
    pub(crate) async fn info(&self) -> Result<Info> {
        let what = "cannot ask the agent who it is";
        let (request, until) = self.request(v1::InfoRequest {}, Some(QUICK));
        let mut agent = v1::agent_client::AgentClient::new(self.channel.clone());
        let info = within(until, what, agent.info(request)).await?.into_inner();
        let health = info.health.into_iter().map(|check| {
            let v1::HealthCheck {
                name,
                ok,
                message,
                hint,
            } = check;
            Health {
                name,
                ok,
                message,
                hint,
            }
        });
        Ok(Info {
            version: info.version,
            sqlite_version: info.sqlite_version,
            node: info.node,
            replica_root: info.replica_root,
            databases: info.databases,
            started: convert::time(info.started),
            health: health.collect(),
        })
    }

    /// The databases that the agent knows.
    pub(crate) async fn list(&self, namespace: Option<&str>) -> Result<Vec<Database>> {
        let namespace = namespace.unwrap_or_default().to_owned();
        let (request, until) = self.request(v1::ListRequest { namespace }, Some(QUICK));
        let call = async { self.databases().list(request).await };
        Self::stream("cannot list databases", until, call)
            .await?
            .all(convert::database)
            .await
    }

    /// The replicas on the agent's root that belong to no pod.
    pub(crate) async fn replicas(&self, namespace: Option<&str>) -> Result<Vec<Replica>> {
        let namespace = namespace.unwrap_or_default().to_owned();
        let (request, until) = self.request(v1::ListReplicasRequest { namespace }, Some(LISTING));
        let mut replicas = v1::replicas_client::ReplicasClient::new(self.channel.clone());
        let call = replicas.list(request);
        Self::stream("cannot list replicas", until, call)
            .await?
            .all(convert::replica)
            .await
    }

    /// The id of a replica that `replicas` named.
    pub(crate) fn id_of(replica: &Replica) -> Result<Id> {
        convert::id_of_replica(replica)
    }

    /// All databases, then every change.
    pub(crate) async fn watch(&self, namespace: Option<&str>) -> Result<Watch> {
        let namespace = namespace.unwrap_or_default().to_owned();
        let (request, until) = self.request(v1::WatchRequest { namespace }, None);
        let call = async { self.databases().watch(request).await };
        Ok(Watch(
            Self::stream("cannot watch databases", until, call).await?,
        ))
    }

    /// What a replica holds.
    pub(crate) async fn history(&self, id: &Id) -> Result<History> {
        use v1::history_response::Entry;
        let message = v1::HistoryRequest {
            database: Some(convert::to_id(id)),
        };
        let (request, until) = self.request(message, Some(LISTING));
        let call = async { self.databases().history(request).await };
        let mut entries = Self::stream("cannot read the history", until, call).await?;
        let mut history = History::default();
        while let Some(message) = entries.next().await? {
            match message.entry {
                Some(Entry::File(file)) => history.files.push(convert::file(file)?),
                Some(Entry::Branch(branch)) => history.branches.push(convert::branch(branch)),
                None => {} // something that this client is too old to know
            }
            if history.files.len() + history.branches.len() > ANSWERS_MAX {
                return Err(convert::nonsense("a history without end"));
            }
        }
        Ok(history)
    }

    /// Begins to fetch a database file.
    pub(crate) async fn restore(
        &self,
        id: &Id,
        wanted: Wanted,
        branch: Option<&str>,
    ) -> Result<Download> {
        let message = v1::RestoreRequest {
            database: Some(convert::to_id(id)),
            point: convert::to_point(wanted),
            branch: branch.unwrap_or_default().to_owned(),
        };
        let (request, until) = self.request(message, None);
        let call = async { self.databases().restore(request).await };
        Download::begin(Self::stream("cannot restore", until, call).await?).await
    }

    /// Makes the waiting pod the owner; answers the claim and who owned the replica before.
    pub(crate) async fn takeover(&self, id: &Id) -> Result<(Txid, String)> {
        let message = v1::TakeoverRequest {
            database: Some(convert::to_id(id)),
        };
        let (request, until) = self.request(message, Some(LISTING));
        let mut databases = self.databases();
        let call = databases.takeover(request);
        let answer = within(until, "cannot take the replica over", call)
            .await?
            .into_inner();
        Ok((convert::txid(answer.txid)?, answer.previous_pod))
    }

    /// Takes a database into the replica; answers the TXID it begins with.
    pub(crate) async fn adopt(&self, id: &Id, litestream: Option<&str>) -> Result<Txid> {
        let message = v1::AdoptRequest {
            database: Some(convert::to_id(id)),
            litestream_replica: litestream.unwrap_or_default().to_owned(),
        };
        let (request, until) = self.request(message, None);
        let mut databases = self.databases();
        let call = databases.adopt(request);
        convert::txid(within(until, "cannot adopt", call).await?.into_inner().txid)
    }
}

/// The header that proves who asks; never sent in the clear to another machine.
fn bearer(token: &OsStr, endpoint: &Endpoint) -> Result<MetadataValue<Ascii>> {
    if !endpoint.is_private() {
        return Err(Failure::usage(format!(
            "SQLREP_TOKEN would cross the network in the clear to {endpoint}"
        ))
        .hint("use TLS (--tls-ca), forward the port to this machine, or unset SQLREP_TOKEN"));
    }
    let token = token
        .to_str()
        .and_then(|token| format!("Bearer {}", token.trim()).parse().ok());
    let mut value: MetadataValue<Ascii> =
        token.ok_or_else(|| Failure::usage("SQLREP_TOKEN is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A stream of changes.
#[derive(Debug)]
pub(crate) struct Watch(Messages<v1::WatchResponse>);

impl Watch {
    /// The next change; `None` when the agent ends the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Change>> {
        use v1::watch_response::Event;
        loop {
            let Some(message) = self.0.next().await? else {
                return Ok(None);
            };
            return Ok(Some(match message.event {
                Some(Event::Changed(database)) => {
                    Change::Changed(Box::new(convert::database(database)?))
                }
                Some(Event::Gone(id)) => Change::Gone(convert::id(Some(id))?),
                Some(Event::CaughtUp(_)) => Change::CaughtUp,
                None => continue, // something that this client is too old to know
            }));
        }
    }
}
