//! `sqlrep.v1.Databases`: what is followed on this node, and what can be done with it.

mod progress;
mod read;
mod rewind;
mod watch;

use std::collections::VecDeque;
use std::future::Future;
use std::time::Instant;

use sqlrep_pipeline::{DbId, Fleet, Wanted};
use sqlrep_proto::v1;
use sqlrep_proto::v1::databases_server::Databases;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use super::convert::{self, Around};
use super::stream::{Answers, Broken, Left, Sink};
use super::{Node, guard, status};
use crate::auth::Caller;

/// Databases of one call that are worked on at once.
const AT_ONCE: usize = 32;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    node: Node,
}

impl Service {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }
}

/// The rows of a namespace (empty: all), as they are now.
fn rows(node: &Node, namespace: &str) -> Vec<v1::Database> {
    let root = node.fleet.root();
    let around = Around {
        node: &node.config.node_name,
        root: &root,
        now: Instant::now(),
    };
    let wanted = |id: &DbId| namespace.is_empty() || id.namespace() == namespace;
    let rows = node.fleet.list().into_iter().filter(|row| wanted(&row.id));
    rows.map(|row| {
        let note = node.notes.get(&row.pod_uid);
        convert::database(row, note, &around)
    })
    .collect()
}

/// Those of the rows that the caller may see.
async fn visible(
    caller: &Caller,
    asked: &str,
    mut rows: Vec<v1::Database>,
) -> Result<Vec<v1::Database>, Status> {
    let namespace = |row: &v1::Database| row.id.clone().unwrap_or_default().namespace;
    let sight = caller.sight(asked, rows.iter().map(namespace)).await?;
    rows.retain(|row| sight.shows(&namespace(row)));
    Ok(rows)
}

/// Works on several databases, [`AT_ONCE`] at a time. The work sends what it has to say itself.
async fn for_each<F>(ids: Vec<DbId>, mut work: impl FnMut(DbId) -> F) -> Result<(), Broken>
where
    F: Future<Output = Result<(), Left>> + Send + 'static,
{
    let mut left: VecDeque<_> = ids.into();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE {
            let Some(id) = left.pop_front() else { break };
            running.spawn(work(id));
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(ended)) => ended?,
            Some(Err(panic)) => return Err(Status::internal(format!("a bug: {panic}")).into()),
        }
    }
}

async fn sync(fleet: Fleet, id: DbId, sink: Sink<v1::SyncResponse>) -> Result<(), Left> {
    let step = match fleet.capture_and_ship(&id).await {
        Ok(txid) => v1::sync_response::Step::Done(v1::Shipped { txid: txid.get() }),
        Err(error) => v1::sync_response::Step::Failed(status::failure(&error)),
    };
    sink.send(v1::SyncResponse {
        database: Some(convert::id(&id)),
        step: Some(step),
    })
    .await
}

async fn snapshot(fleet: Fleet, id: DbId, sink: Sink<v1::SnapshotResponse>) -> Result<(), Left> {
    use v1::snapshot_response::Step;
    let step = match fleet.snapshot(&id).await {
        Ok((txid, bytes)) => {
            let txid = txid.get();
            Step::Done(v1::SnapshotDone { txid, bytes })
        }
        Err(error) => Step::Failed(status::failure(&error)),
    };
    sink.send(v1::SnapshotResponse {
        database: Some(convert::id(&id)),
        step: Some(step),
    })
    .await
}

#[tonic::async_trait]
impl Databases for Service {
    type ListStream = Answers<v1::Database>;
    type WatchStream = Answers<v1::WatchResponse>;
    type HistoryStream = Answers<v1::HistoryResponse>;
    type SyncStream = Answers<v1::SyncResponse>;
    type SnapshotStream = Answers<v1::SnapshotResponse>;
    type VerifyStream = Answers<v1::VerifyResponse>;
    type RestoreStream = Answers<v1::RestoreResponse>;
    type RestoreInPlaceStream = Answers<v1::RestoreInPlaceResponse>;

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let caller = guard::caller(&request)?;
        let rows = rows(&self.node, &request.get_ref().namespace);
        let rows = visible(&caller, &request.get_ref().namespace, rows).await?;
        self.node.streams.answer(
            request.metadata(),
            request.extensions(),
            |sink| async move {
                for row in rows {
                    sink.send(row).await?;
                }
                Ok(())
            },
        )
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = guard::caller(&request)?;
        let (metadata, extensions, message) = request.into_parts();
        let node = self.node.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            watch::run(node, caller, message.namespace, sink)
        })
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let id = convert::named(message.database)?;
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            read::history(fleet, id, sink)
        })
    }

    async fn sync(
        &self,
        request: Request<v1::SyncRequest>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let ids = convert::all_named(message.databases)?;
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            for_each(ids, move |id| sync(fleet.clone(), id, sink.clone()))
        })
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let ids = convert::all_named(message.databases)?;
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            for_each(ids, move |id| snapshot(fleet.clone(), id, sink.clone()))
        })
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let ids = convert::all_named(message.databases)?;
        let point = convert::point(message.point)?;
        let branch = convert::branch(message.branch);
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            for_each(ids, move |id| {
                read::verify(fleet.clone(), id, point, branch.clone(), sink.clone())
            })
        })
    }

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let id = convert::named(message.database)?;
        let point = convert::point(message.point)?;
        let branch = convert::branch(message.branch);
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            read::restore(fleet, id, point, branch, sink)
        })
    }

    async fn restore_in_place(
        &self,
        request: Request<v1::RestoreInPlaceRequest>,
    ) -> Result<Response<Self::RestoreInPlaceStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let id = convert::named(message.database)?;
        let wanted = Wanted {
            point: convert::point(message.point)?,
            branch: convert::branch(message.branch),
        };
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(&metadata, &extensions, |sink| {
            rewind::run(fleet, id, wanted, sink)
        })
    }

    async fn takeover(
        &self,
        request: Request<v1::TakeoverRequest>,
    ) -> Result<Response<v1::TakeoverResponse>, Status> {
        let id = convert::named(request.into_inner().database)?;
        let fleet = &self.node.fleet;
        let replicas = fleet.replicas().await.map_err(|error| status::of(&error))?;
        let before = replicas.into_iter().find(|replica| replica.id == id);
        let (pod, node) = before
            .and_then(|replica| replica.owner)
            .map_or_else(Default::default, |(pod, node, _)| (pod, node));
        let txid = fleet
            .take_over(&id)
            .await
            .map_err(|error| status::of(&error))?;
        Ok(Response::new(v1::TakeoverResponse {
            txid: txid.get(),
            previous_pod: pod,
            previous_node: node,
        }))
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        let request = request.into_inner();
        if !request.litestream_replica.is_empty() {
            return Err(status::not_yet("adopting a replica from another directory"));
        }
        let id = convert::named(request.database)?;
        let adopted = self.node.fleet.take_over(&id).await;
        let txid = adopted.map_err(|error| status::of(&error))?.get();
        Ok(Response::new(v1::AdoptResponse { txid }))
    }
}
