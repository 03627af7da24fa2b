//! Where events go: to the API server, as `events.k8s.io/v1`, or to nobody.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::time::{sleep, timeout};

use super::{Publish, Saying};
use crate::cluster::Cluster;

/// Who reports.
const CONTROLLER: &str = "sqlrep.io/agent";
/// The API server refuses longer notes.
const NOTE_BYTES_MAX: usize = 1_024;
/// An API server that takes longer is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries of one event; after them it is in the log only.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Where there is no cluster: events are log lines only.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Publish for Nobody {
    async fn publish(&mut self, _saying: &Saying) -> Result<(), String> {
        Ok(())
    }
}

/// The API server. Needs create and patch of events in `events.k8s.io`.
#[derive(Debug)]
pub(crate) struct Server {
    cluster: Cluster,
    /// Which agent reports.
    node: String,
}

impl Publish for Server {
    async fn publish(&mut self, saying: &Saying) -> Result<(), String> {
        let mut error = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            error = match timeout(PATIENCE, self.send(saying)).await {
                Ok(Ok(())) => return Ok(()),
                // The namespace is going, or we may not: another try would not help.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400..=428) => {
                    return Err(status.message.clone());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
        }
        Err(error)
    }
}

impl Server {
    /// The agent of this node reports.
    pub(crate) fn new(cluster: Cluster, node: &str) -> Self {
        let node = node.to_owned();
        Self { cluster, node }
    }

    async fn send(&self, saying: &Saying) -> Result<(), kube::Error> {
        let namespace = &saying.notice.pod.namespace;
        let events = Api::<Event>::namespaced(self.cluster.client(), namespace);
        let event = event(saying, &self.node, Timestamp::now());
        if saying.count > 1 {
            let series = serde_json::json!({"series": event.series});
            let params = PatchParams::default();
            match events
                .patch(&saying.name, &params, &Patch::Merge(series))
                .await
            {
                // Its hour is over: it is made anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                done => return done.map(drop),
            }
        }
        events
            .create(&PostParams::default(), &event)
            .await
            .map(drop)
    }
}

fn event(saying: &Saying, node: &str, now: Timestamp) -> Event {
    let notice = &saying.notice;
    let kind = if notice.reason.is_warning() {
        "Warning"
    } else {
        "Normal"
    };
    Event {
        action: Some("Replicate".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(saying.name.clone()),
            namespace: Some(notice.pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        note: Some(shortened(&notice.note)),
        reason: Some(notice.reason.as_str().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(notice.pod.name.clone()),
            namespace: Some(notice.pod.namespace.clone()),
            uid: Some(notice.pod.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.chars().take(128).collect()),
        series: (saying.count > 1).then(|| EventSeries {
            count: i32::try_from(saying.count).unwrap_or(i32::MAX),
            last_observed_time: MicroTime(now),
        }),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

fn shortened(note: &str) -> String {
    if note.len() <= NOTE_BYTES_MAX {
        return note.to_owned();
    }
    let mut end = NOTE_BYTES_MAX - '…'.len_utf8();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        for shift in 0..4 {
            let note = format!("{}{}", "x".repeat(shift), "ä€".repeat(600));
            let cut = shortened(&note);
            assert!(cut.len() <= NOTE_BYTES_MAX, "{}", cut.len());
            assert!(cut.ends_with('…'));
        }
    }
}
