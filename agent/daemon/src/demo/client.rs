//! What the demo asks of its agents: the list of databases, as `sqlrepctl list` does.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use sqlrep_proto::v1;
use sqlrep_proto::v1::databases_client::DatabasesClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection to an agent's unix socket.
pub(super) async fn connect(socket: &Path) -> anyhow::Result<DatabasesClient<Channel>> {
    let socket: PathBuf = socket.to_owned();
    // The address is not used, but there has to be one.
    let channel = Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        }))
        .await?;
    Ok(DatabasesClient::new(channel))
}

/// All databases that the agent knows.
pub(super) async fn list(socket: &Path) -> anyhow::Result<Vec<v1::Database>> {
    let mut client = connect(socket).await?;
    let mut rows = client.list(v1::ListRequest::default()).await?.into_inner();
    let mut found = Vec::new();
    while let Some(row) = rows.message().await? {
        found.push(row);
    }
    Ok(found)
}

/// The identity of a row, for people.
pub(super) fn name(row: &v1::Database) -> String {
    let id = row.id.clone().unwrap_or_default();
    format!("{}/{}/{}/{}", id.namespace, id.app, id.volume, id.path)
}

/// The lag of a row, for people.
pub(super) fn lag(row: &v1::Database) -> String {
    let lag = row.lag.unwrap_or_default();
    let millis = lag
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(lag.nanos) / 1_000_000);
    format!("{millis} ms")
}
