//! The pods of the agents, page by page: of each only what leads to its agent.
//!
//! A pod as the API writes it is ten kilobytes, most of them about who set which of its fields. Five
//! thousand of them, decoded whole, took this process nearly a gigabyte.

use kube::api::ListParams;
use kube::core::Request;
use kube::{Client, Error};
use serde::Deserialize;

/// Pods in one answer, as kubectl asks for them.
const PAGE: u32 = 500;
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    metadata: More,
    items: Vec<AgentsPod>,
}

#[derive(Debug, Default, Deserialize)]
struct More {
    #[serde(rename = "continue")]
    from: Option<String>,
}

/// A pod of ours.
#[derive(Debug, Deserialize)]
pub(super) struct AgentsPod {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

/// Its metadata.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    pub(super) deletion_timestamp: Option<String>,
}

/// Its spec.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) node_name: Option<String>,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
}

/// Its status.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) phase: String,
}

/// One of its containers.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Container {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<Variable>,
}

/// A variable of a container's environment.
#[derive(Debug, Deserialize)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// Some of the pods with these labels, and where the rest begins.
pub(super) async fn page(
    client: &Client,
    (namespace, labels): (&str, &str),
    from: Option<String>,
) -> Result<(Vec<AgentsPod>, Option<String>), Error> {
    let mut wanted = ListParams::default().labels(labels).limit(PAGE);
    wanted.continue_token = from;
    let pods = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let request = pods.list(&wanted).map_err(Error::BuildRequest)?;
    let page: Page = client.request(request).await?;
    let rest = page.metadata.from.filter(|from| !from.is_empty());
    Ok((page.items, rest))
}
