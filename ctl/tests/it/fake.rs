//! An agent that answers what a test tells it to, on a socket of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::vec;

use sqlrep_proto::v1;
use sqlrep_proto::v1::agent_server::{Agent, AgentServer};
use sqlrep_proto::v1::databases_server::{Databases, DatabasesServer};
use sqlrep_proto::v1::replicas_server::{Replicas, ReplicasServer};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// A message, or the status that ends the stream.
pub(crate) type Said<M> = Result<M, (Code, &'static str)>;
type Answer<M> = tokio_stream::Iter<vec::IntoIter<Result<M, Status>>>;

/// What the agent answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) info: v1::InfoResponse,
    pub(crate) databases: Vec<v1::Database>,
    pub(crate) replicas: Vec<v1::Replica>,
    pub(crate) restore: Vec<Said<v1::RestoreResponse>>,
    pub(crate) history: Vec<Said<v1::HistoryResponse>>,
    pub(crate) sync: Vec<Said<v1::SyncResponse>>,
    pub(crate) verify: Vec<Said<v1::VerifyResponse>>,
    pub(crate) watch: Vec<Said<v1::WatchResponse>>,
    /// How long the agent thinks before it says who it is.
    pub(crate) slow_ms: u64,
}

/// What the agent was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) tokens: Vec<Option<String>>,
    pub(crate) synced: Vec<v1::DatabaseId>,
    pub(crate) restored: Vec<v1::RestoreRequest>,
    pub(crate) taken: Vec<v1::DatabaseId>,
}

/// A running agent; its socket goes with it.
#[derive(Debug)]
pub(crate) struct Fake {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Asked>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Fake {
    /// Listens before it returns.
    pub(crate) fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let service = Service {
            script,
            asked: Arc::clone(&asked),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, listening) = std::sync::mpsc::channel();
        let socket = dir.path().join("agent.sock");
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::bind(socket).unwrap();
                ready.send(()).unwrap();
                Server::builder()
                    .add_service(AgentServer::new(service.clone()))
                    .add_service(DatabasesServer::new(service.clone()))
                    .add_service(ReplicasServer::new(service))
                    .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                        let _ = stopped.await;
                    })
                    .await
                    .unwrap();
            });
        });
        listening.recv().unwrap();
        Self {
            dir,
            asked,
            _stop: stop,
        }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// For `--agent`.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// A directory that goes with the agent.
    pub(crate) fn out(&self) -> PathBuf {
        let out = self.dir.path().join("out");
        std::fs::create_dir_all(&out).unwrap();
        out
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().unwrap().clone()
    }
}

#[derive(Clone, Debug)]
struct Service {
    script: Script,
    asked: Arc<Mutex<Asked>>,
}

fn answer<M>(said: Vec<Said<M>>) -> Response<Answer<M>> {
    let said: Vec<_> = said
        .into_iter()
        .map(|said| said.map_err(|(code, message)| Status::new(code, message)))
        .collect();
    Response::new(tokio_stream::iter(said))
}

fn all<M>(messages: Vec<M>) -> Response<Answer<M>> {
    answer(messages.into_iter().map(Ok).collect())
}

#[tonic::async_trait]
impl Agent for Service {
    async fn info(
        &self,
        _: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        tokio::time::sleep(std::time::Duration::from_millis(self.script.slow_ms)).await;
        Ok(Response::new(self.script.info.clone()))
    }
}

#[tonic::async_trait]
impl Replicas for Service {
    type ListStream = Answer<v1::Replica>;

    async fn list(
        &self,
        _: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Ok(all(self.script.replicas.clone()))
    }
}

#[tonic::async_trait]
impl Databases for Service {
    type ListStream = Answer<v1::Database>;
    type WatchStream = Answer<v1::WatchResponse>;
    type HistoryStream = Answer<v1::HistoryResponse>;
    type SyncStream = Answer<v1::SyncResponse>;
    type SnapshotStream = Answer<v1::SnapshotResponse>;
    type VerifyStream = Answer<v1::VerifyResponse>;
    type RestoreStream = Answer<v1::RestoreResponse>;
    type RestoreInPlaceStream = Answer<v1::RestoreInPlaceResponse>;

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        self.asked.lock().unwrap().tokens.push(token);
        Ok(all(self.script.databases.clone()))
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(answer(self.script.watch.clone()))
    }

    async fn history(
        &self,
        _: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        Ok(answer(self.script.history.clone()))
    }

    async fn sync(
        &self,
        request: Request<v1::SyncRequest>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.asked.lock().unwrap().synced = request.into_inner().databases;
        Ok(answer(self.script.sync.clone()))
    }

    async fn snapshot(
        &self,
        _: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        Ok(answer(self.script.verify.clone()))
    }

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        self.asked
            .lock()
            .unwrap()
            .restored
            .push(request.into_inner());
        Ok(answer(self.script.restore.clone()))
    }

    async fn restore_in_place(
        &self,
        _: Request<v1::RestoreInPlaceRequest>,
    ) -> Result<Response<Self::RestoreInPlaceStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn takeover(
        &self,
        request: Request<v1::TakeoverRequest>,
    ) -> Result<Response<v1::TakeoverResponse>, Status> {
        let id = request.into_inner().database.unwrap_or_default();
        self.asked.lock().unwrap().taken.push(id);
        Err(Status::failed_precondition("no pod waits for it"))
    }

    async fn adopt(
        &self,
        _: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
