//! Whether a pod elsewhere still lives, as the API server has it now.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use sqlrep_pipeline::{PodAnswer, PodHandle, PodLife, PodLookup};

use super::Cluster;

/// Somebody vouches that nothing runs on a node.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl PodLookup for Cluster {
    /// Plain GETs: they are answered from the store, not from a cache that may be behind. Needs
    /// pods get and nodes get.
    fn life(&self, handle: PodHandle) -> PodAnswer {
        let client = self.client();
        Box::pin(async move {
            let unknown = |error: kube::Error| PodLife::Unknown {
                reason: error.to_string(),
            };
            let pods = Api::<Pod>::namespaced(client.clone(), &handle.namespace);
            let pod = match pods.get_opt(&handle.name).await {
                Ok(pod) => pod.filter(|pod| pod.metadata.uid.as_ref() == Some(&handle.uid)),
                Err(error) => return unknown(error),
            };
            let Some(pod) = pod.filter(|pod| !has_finished(pod)) else {
                return PodLife::Gone;
            };
            match Api::<Node>::all(client).get_opt(&handle.node).await {
                Ok(node) => judge(&pod, node.as_ref(), &handle.node),
                Err(error) => unknown(error),
            }
        })
    }
}

/// Its containers have ended for good, though the object stays.
fn has_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod that is there is as alive as its node: one that does not answer may run it or not.
fn judge(pod: &Pod, node: Option<&Node>, node_name: &str) -> PodLife {
    let Some(node) = node else {
        let reason = format!("node {node_name} is not in the cluster any more");
        return PodLife::NodeLost { reason };
    };
    let mut taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    if taints.any(|taint| taint.key == OUT_OF_SERVICE) {
        return PodLife::OutOfService;
    }
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    match ready.next() {
        Some(condition) if condition.status == "True" => {}
        Some(condition) => {
            let why = condition.message.as_deref().unwrap_or("it says no more");
            let reason = format!("node {node_name} is not ready: {why}");
            return PodLife::NodeLost { reason };
        }
        None => {
            let reason = format!("node {node_name} has never said that it is ready");
            return PodLife::NodeLost { reason };
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        PodLife::Terminating
    } else {
        PodLife::Alive
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn node(taint: &str, ready: &str) -> Node {
        let node = json!({"metadata": {},
            "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_pod_is_as_alive_as_its_node() {
        let alive = pod(&json!({}));
        let going = pod(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(judge(&alive, Some(&node("x", "True")), "n"), PodLife::Alive);
        assert_eq!(
            judge(&going, Some(&node("x", "True")), "n"),
            PodLife::Terminating
        );
        for lost in ["False", "Unknown"] {
            let judged = judge(&going, Some(&node("x", lost)), "n");
            assert!(matches!(judged, PodLife::NodeLost { .. }), "{judged:?}");
        }
        assert!(matches!(judge(&alive, None, "n"), PodLife::NodeLost { .. }));
        let vouched = judge(&alive, Some(&node(OUT_OF_SERVICE, "Unknown")), "n");
        assert_eq!(vouched, PodLife::OutOfService);
    }

    #[test]
    fn a_pod_that_finished_writes_no_more() {
        for (phase, finished) in [("Succeeded", true), ("Failed", true), ("Running", false)] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase}}))
                    .unwrap();
            assert_eq!(has_finished(&pod), finished);
        }
    }
}
