//! `sqlrep.v1.Replicas`: what lies on the root and belongs to no pod of this node.

use std::collections::BTreeSet;

use sqlrep_proto::v1;
use sqlrep_proto::v1::replicas_server::Replicas;
use tonic::{Request, Response, Status};

use super::stream::Answers;
use super::{Node, convert, guard, status};

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

#[tonic::async_trait]
impl Replicas for Service {
    type ListStream = Answers<v1::Replica>;

    async fn list(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let caller = guard::caller(&request)?;
        let namespace = request.get_ref().namespace.clone();
        let fleet = self.node.fleet.clone();
        self.node.streams.answer(
            request.metadata(),
            request.extensions(),
            |sink| async move {
                let replicas = fleet.replicas().await.map_err(|error| status::of(&error))?;
                let at_hand = replicas
                    .iter()
                    .map(|replica| replica.id.namespace().to_owned());
                let sight = caller.sight(&namespace, at_hand).await?;
                let live: BTreeSet<_> =
                    fleet.look(|rows| rows.values().map(|row| row.id.clone()).collect());
                for replica in replicas {
                    let of = replica.id.namespace();
                    let wanted = namespace.is_empty() || of == namespace;
                    if wanted && sight.shows(of) && !live.contains(&replica.id) {
                        sink.send(convert::replica(replica)).await?;
                    }
                }
                Ok(())
            },
        )
    }
}
