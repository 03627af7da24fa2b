//! The cluster that the agent runs in: the way to its API server, and what makes it this cluster
//! and no other. The only other rooms of Kubernetes types here are named in `agent/README.md`.

mod life;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Api, Client};
use sqlrep_discover::ApiServer;
use tokio::time::{Instant, sleep, timeout};

use crate::auth::ApiJudge;
use crate::config::Config;

/// The namespace whose UID stands for the cluster: it is made with the cluster and never again.
const UID_NAMESPACE: &str = "kube-system";

/// The ConfigMap in the agent's own namespace that says which replica root is the cluster's.
const ROOT_MAP: &str = "sqlrep-root";

/// Its key.
const ROOT_KEY: &str = "id";

/// Where the node remembers the cluster, in the state directory.
const UID_FILE: &str = "cluster-uid";

/// A UID is 36 bytes.
const UID_BYTES_MAX: usize = 128;

/// How long an agent that knows nothing waits for the API server before it gives up: then it is
/// started again, and says so where people look.
const START_PATIENCE: Duration = Duration::from_mins(1);

/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries at start.
const RETRY: Duration = Duration::from_secs(2);

/// The cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    uid: String,
    /// The agent's own namespace; without one there is no place for what all agents must know.
    namespace: Option<String>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds the API server (`KUBECONFIG`, else the pod's service account) and learns which
    /// cluster this is. With the API server away, what the node remembers is enough.
    pub(crate) async fn connect(config: &Config) -> anyhow::Result<Self> {
        check_kubelet_root(
            &config.kubelet_root,
            std::env::var("POD_UID").ok().as_deref(),
        )?;
        let found = kube::Config::infer().await.context(
            "--pods kube: no API server is known; run in a pod with a service account, or set \
             KUBECONFIG",
        )?;
        let url = found.cluster_url.to_string();
        let client = Client::try_from(found)
            .with_context(|| format!("cannot talk to the API server {url}"))?;
        let memory = config.state_dir.join(UID_FILE);
        let uid = learn_uid(&client, &memory)
            .await
            .with_context(|| format!("--pods kube: API server {url}"))?;
        tracing::info!(server = url, cluster = uid, "cluster is known");
        let namespace = std::env::var("POD_NAMESPACE").ok();
        Ok(Self {
            client,
            uid,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
        })
    }

    /// The UID of the cluster, which replicas carry.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// The API server, for those who must know what a caller may do.
    pub(crate) fn judge(&self) -> ApiJudge {
        ApiJudge::new(self.client.clone())
    }

    /// The way to the API server.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The API server, for discovery.
    pub(crate) fn api_server(&self) -> ApiServer {
        ApiServer::new(self.client.clone())
    }
}

impl Cluster {
    /// Whether the cluster can remember the replica root.
    pub(crate) fn remembers_roots(&self) -> bool {
        self.namespace.is_some()
    }

    /// The id of the replica root, as the cluster remembers it.
    pub(crate) async fn remembered_root(&self) -> anyhow::Result<Option<String>> {
        self.remembered_id(ROOT_MAP).await
    }

    /// The id in a ConfigMap.
    async fn remembered_id(&self, name: &str) -> anyhow::Result<Option<String>> {
        let attempted = || format!("cannot get ConfigMap {name} in {}", self.own_namespace());
        let found = in_time(self.config_maps().get_opt(name))
            .await
            .with_context(attempted)?
            .with_context(attempted)?;
        let Some(map) = found else { return Ok(None) };
        let id = map.data.and_then(|mut data| data.remove(ROOT_KEY));
        id.map(Some)
            .with_context(|| format!("ConfigMap {name} has no key {ROOT_KEY}"))
    }

    /// Has the cluster remember the replica root. Of two nodes that do so at once one wins, and
    /// both are right to ask again.
    pub(crate) async fn remember_root(&self, id: &str) -> anyhow::Result<()> {
        self.remember_id(ROOT_MAP, id, None).await
    }

    /// Makes a ConfigMap with an id, which goes with its owner.
    async fn remember_id(
        &self,
        name: &str,
        id: &str,
        owner: Option<OwnerReference>,
    ) -> anyhow::Result<()> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: self.namespace.clone(),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some([(ROOT_KEY.to_owned(), id.to_owned())].into()),
            // Never changed: another root is another id, and a person decides that.
            immutable: Some(true),
            ..ConfigMap::default()
        };
        let attempted = || format!("cannot create ConfigMap {name} in {}", self.own_namespace());
        let (maps, params) = (self.config_maps(), PostParams::default());
        let created = in_time(maps.create(&params, &map))
            .await
            .with_context(attempted)?;
        match created {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop).with_context(attempted),
        }
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), self.own_namespace())
    }

    fn own_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// The agent's own pod must be where the pods of this node are; if it is not, nothing will be.
fn check_kubelet_root(root: &Path, pod_uid: Option<&str>) -> anyhow::Result<()> {
    let Some(uid) = pod_uid.filter(|uid| !uid.is_empty()) else {
        return Ok(());
    };
    let dir = root.join("pods").join(uid);
    if dir.is_dir() {
        return Ok(());
    }
    bail!(
        "wrong kubeletDir: this agent's own pod has no directory {}; set kubeletDir (the host path \
         behind --kubelet-root) to the kubelet's --root-dir, as in /var/lib/k0s/kubelet (k0s) or \
         /var/snap/microk8s/common/var/lib/kubelet (MicroK8s)",
        dir.display()
    )
}

/// Asks for the cluster's UID and remembers it; takes the remembered one where nobody answers.
async fn learn_uid(client: &Client, memory: &Path) -> anyhow::Result<String> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        let error = match ask_uid(client).await {
            Ok(uid) => {
                remember(memory, &uid);
                return Ok(uid);
            }
            Err(error) => error,
        };
        if let Some(uid) = remembered(memory) {
            tracing::warn!(err = %format!("{error:#}"), "the API server does not answer; this node remembers its cluster");
            return Ok(uid);
        }
        if Instant::now() >= end {
            return Err(error.context(
                "does not say which cluster this is, and this node does not know either",
            ));
        }
        tracing::warn!(err = %format!("{error:#}"), "the API server does not say which cluster this is; asked again");
        sleep(RETRY).await;
    }
}

/// Waits for an answer of the API server, within the bound.
async fn in_time<T>(answer: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(REQUEST_TIMEOUT, answer)
        .await
        .map_err(|_| anyhow!("no answer within {REQUEST_TIMEOUT:?}"))
}

async fn ask_uid(client: &Client) -> anyhow::Result<String> {
    let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let found = in_time(api.get(UID_NAMESPACE))
        .await?
        .with_context(|| format!("cannot get namespace {UID_NAMESPACE}"))?;
    found
        .metadata
        .uid
        .filter(|uid| is_uid(uid))
        .with_context(|| format!("namespace {UID_NAMESPACE} has no UID"))
}

fn remembered(memory: &Path) -> Option<String> {
    let text = std::fs::read_to_string(memory).ok()?;
    Some(text.trim().to_owned()).filter(|uid| is_uid(uid))
}

fn remember(memory: &Path, uid: &str) {
    match remembered(memory) {
        Some(known) if known == uid => return,
        Some(known) => {
            tracing::warn!(
                before = known,
                now = uid,
                "this node was in another cluster before"
            );
        }
        None => {}
    }
    let dir = memory.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let written =
        std::fs::create_dir_all(dir).and_then(|()| std::fs::write(memory, format!("{uid}\n")));
    if let Err(error) = written {
        tracing::warn!(path = %memory.display(), err = %error, "cannot remember the cluster");
    }
}

/// What is torn or foreign is not believed.
fn is_uid(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (8..=UID_BYTES_MAX).contains(&text.len()) && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_root_without_our_own_pod_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("pods/u-1")).unwrap();
        check_kubelet_root(root.path(), None).unwrap();
        check_kubelet_root(root.path(), Some("u-1")).unwrap();
        let error = check_kubelet_root(root.path(), Some("u-2")).unwrap_err();
        assert!(error.to_string().contains("wrong kubeletDir"), "{error}");
    }

    #[test]
    fn the_cluster_is_remembered_and_a_torn_memory_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("state").join(UID_FILE);
        assert_eq!(remembered(&memory), None);
        remember(&memory, "6b1f0c0e-0000-4000-8000-000000000001");
        assert_eq!(
            remembered(&memory).unwrap(),
            "6b1f0c0e-0000-4000-8000-000000000001"
        );
        std::fs::write(&memory, "6b1f").unwrap();
        assert_eq!(remembered(&memory), None);
    }
}
