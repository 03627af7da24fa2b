//! The services behind the door: each call is allowed before its handler sees it.
//!
//! A call that is added to the contract does not compile until somebody decides here who may make
//! it. Handlers that answer with rows find the [`Caller`] among the request's extensions, and show
//! what it may see. A call on several databases is refused whole: nothing is done by halves.

use std::collections::BTreeSet;

use sqlrep_proto::v1;
use sqlrep_proto::v1::agent_server::Agent;
use sqlrep_proto::v1::databases_server::Databases;
use sqlrep_proto::v1::replicas_server::Replicas;
use tonic::{Request, Response, Status};

use super::{Peer, agent, databases, replicas};
use crate::auth::{Caller, Deed, Door};

/// A service behind the door.
#[derive(Clone, Debug)]
pub(super) struct Guard<S> {
    door: Door,
    inner: S,
}

impl<S> Guard<S> {
    pub(super) fn new(door: Door, inner: S) -> Self {
        Self { door, inner }
    }

    async fn caller<M>(&self, request: &Request<M>) -> Result<Caller, Status> {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let caller = self.door.caller(metadata, extensions).await?;
        if let Some(peer) = Peer::of(extensions) {
            peer.called();
        }
        Ok(caller)
    }

    /// Lets a call on one database pass.
    async fn on_one<M>(
        &self,
        deed: Deed,
        request: &Request<M>,
        id: Option<&v1::DatabaseId>,
    ) -> Result<(), Status> {
        let caller = self.caller(request).await?;
        // A call that names nothing is told so by its handler.
        match id {
            Some(id) => caller.require(deed, Some(&id.namespace)).await,
            None => Ok(()),
        }
    }

    /// Lets a call on several databases pass.
    async fn on_each<M>(
        &self,
        deed: Deed,
        request: &Request<M>,
        ids: &[v1::DatabaseId],
    ) -> Result<(), Status> {
        let caller = self.caller(request).await?;
        let namespaces: BTreeSet<&str> = ids.iter().map(|id| id.namespace.as_str()).collect();
        for namespace in namespaces {
            caller.require(deed, Some(namespace)).await?;
        }
        Ok(())
    }

    /// Lets a call pass whose handler shows only what the caller may see.
    async fn on_rows<M>(&self, mut request: Request<M>) -> Result<Request<M>, Status> {
        let caller = self.caller(&request).await?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// The caller of a call that answers with rows.
pub(super) fn caller<M>(request: &Request<M>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    // Without one nothing is shown.
    caller
        .cloned()
        .ok_or_else(|| Status::internal("a call came past the door; this is a bug"))
}

#[tonic::async_trait]
impl Agent for Guard<agent::Service> {
    async fn info(
        &self,
        request: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Deed::Info, None).await?;
        self.inner.info(request).await
    }
}

#[tonic::async_trait]
impl Replicas for Guard<replicas::Service> {
    type ListStream = <replicas::Service as Replicas>::ListStream;

    async fn list(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.inner.list(self.on_rows(request).await?).await
    }
}

#[tonic::async_trait]
impl Databases for Guard<databases::Service> {
    type ListStream = <databases::Service as Databases>::ListStream;
    type WatchStream = <databases::Service as Databases>::WatchStream;
    type HistoryStream = <databases::Service as Databases>::HistoryStream;
    type SyncStream = <databases::Service as Databases>::SyncStream;
    type SnapshotStream = <databases::Service as Databases>::SnapshotStream;
    type VerifyStream = <databases::Service as Databases>::VerifyStream;
    type RestoreStream = <databases::Service as Databases>::RestoreStream;
    type RestoreInPlaceStream = <databases::Service as Databases>::RestoreInPlaceStream;

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.inner.list(self.on_rows(request).await?).await
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.inner.watch(self.on_rows(request).await?).await
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let id = request.get_ref().database.as_ref();
        self.on_one(Deed::History, &request, id).await?;
        self.inner.history(request).await
    }

    async fn sync(
        &self,
        request: Request<v1::SyncRequest>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let ids = &request.get_ref().databases;
        self.on_each(Deed::Sync, &request, ids).await?;
        self.inner.sync(request).await
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let ids = &request.get_ref().databases;
        self.on_each(Deed::Snapshot, &request, ids).await?;
        self.inner.snapshot(request).await
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let ids = &request.get_ref().databases;
        self.on_each(Deed::Verify, &request, ids).await?;
        self.inner.verify(request).await
    }

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let id = request.get_ref().database.as_ref();
        self.on_one(Deed::Restore, &request, id).await?;
        self.inner.restore(request).await
    }

    async fn restore_in_place(
        &self,
        request: Request<v1::RestoreInPlaceRequest>,
    ) -> Result<Response<Self::RestoreInPlaceStream>, Status> {
        let id = request.get_ref().database.as_ref();
        self.on_one(Deed::Rewind, &request, id).await?;
        self.inner.restore_in_place(request).await
    }

    async fn takeover(
        &self,
        request: Request<v1::TakeoverRequest>,
    ) -> Result<Response<v1::TakeoverResponse>, Status> {
        let id = request.get_ref().database.as_ref();
        self.on_one(Deed::TakeOver, &request, id).await?;
        self.inner.takeover(request).await
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        let id = request.get_ref().database.as_ref();
        self.on_one(Deed::Adopt, &request, id).await?;
        self.inner.adopt(request).await
    }
}
