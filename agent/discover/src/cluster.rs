//! Pods from the API server: one watch for the pods of this node that carry the label.
//!
//! The watch keeps the complete set of pods and hands it over whole whenever something changed in
//! it; what that means is told by the same comparison as for manifests. An API server that is away
//! says nothing: what is known goes on, and nobody is taken for gone. After a break too long for
//! the server's memory the pods are listed anew, and replace the old ones only when the list is
//! complete.

mod lookups;
mod pod;
mod set;

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::discover::Requests;
use crate::policy;
use lookups::Lookups;
use pod::WatchedPod;
use set::PodSet;

/// How long a server may take to stream its first list before it is asked for a plain one: a
/// server too old for streaming lists ignores what it does not know, and never says that the list
/// is whole.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);

/// Bounds of how long one watch lasts before it is asked for anew, in seconds; the API's client takes
/// no more. All agents of a cluster begin to watch at once when its API server was restarted: with one
/// and the same time they would come back together ever after.
const WATCH_SECONDS: Range<u64> = 190..290;

/// The way to an API server.
#[derive(Clone)]
pub struct ApiServer(Client);

impl ApiServer {
    /// Uses this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiServer")
    }
}

/// What the server says.
type Told = BoxStream<'static, Result<Event<WatchedPod>, watcher::Error>>;

/// How a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// As the beginning of a watch: cheap for the server, from Kubernetes 1.32 on by default.
    Streamed,
    /// By themselves, page by page.
    Plain,
}

/// Watches until cancelled; errors are waited out.
pub(crate) async fn run(
    server: ApiServer,
    node_name: String,
    requests: Arc<Requests>,
    cancel: CancellationToken,
) {
    // Whatever ends this, a panic too, ends discovery: pods of long ago must not pass for known.
    let end = EndWithUs(requests);
    let mut watch = Watch::new(server, node_name);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = watch.work(&end.0) => {}
    }
}

/// Ends the discovery thread when it is dropped.
struct EndWithUs(Arc<Requests>);

impl Drop for EndWithUs {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The watch and what it has learned.
struct Watch {
    client: Client,
    node_name: String,
    pods: PodSet,
    lookups: Lookups,
    lists: Lists,
    /// Until when the list that is being streamed must be whole.
    stream_until: Option<Instant>,
    /// Whether the last thing that the server said was an error.
    troubled: bool,
}

impl Watch {
    fn new(server: ApiServer, node_name: String) -> Self {
        let lookups = Lookups::new(server.0.clone());
        Self {
            client: server.0,
            pods: PodSet::new(node_name.clone()),
            node_name,
            lookups,
            lists: Lists::Streamed,
            stream_until: None,
            troubled: false,
        }
    }

    async fn work(&mut self, requests: &Requests) {
        let mut told = self.watch();
        loop {
            let (until, retry) = (self.stream_until, self.lookups.retry_at());
            let changed = tokio::select! {
                event = told.next() => match event {
                    Some(Ok(event)) => {
                        self.recovered();
                        self.apply(event)
                    }
                    Some(Err(error)) => {
                        if self.lists == Lists::Streamed && is_refusal(&error) {
                            told = self.fall_back();
                        } else {
                            self.complain(&error);
                        }
                        false
                    }
                    // A watcher has no end; one that has is begun again.
                    None => {
                        told = self.watch();
                        false
                    }
                },
                () = self.lookups.answered() => true,
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    self.lookups.try_again();
                    true
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    told = self.fall_back();
                    false
                }
            };
            if changed && let Some(wanted) = self.pods.wanted(&mut self.lookups) {
                requests.tell(wanted);
            }
        }
    }

    /// Begins to watch. The field selector is what the server has an index for; the label only
    /// saves bytes. It asks for the key alone, so that a wrong value is seen and said.
    fn watch(&mut self) -> Told {
        let mut config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node_name))
            .labels(policy::REPLICATE)
            .timeout(watch_seconds());
        self.stream_until = None;
        if self.lists == Lists::Streamed {
            config = config.streaming_lists();
        }
        let pods = Api::<WatchedPod>::all(self.client.clone());
        watcher(pods, config)
            .default_backoff()
            .modify(WatchedPod::prune)
            .boxed()
    }

    /// An older server: it refuses streamed lists, or does not know of them.
    fn fall_back(&mut self) -> Told {
        tracing::info!("the API server streams no lists: plain ones from now on");
        self.lists = Lists::Plain;
        self.watch()
    }

    /// Says whether something may have changed.
    fn apply(&mut self, event: Event<WatchedPod>) -> bool {
        match event {
            Event::Init => {
                self.pods.begin_list();
                let streamed = self.lists == Lists::Streamed;
                self.stream_until = streamed.then(|| Instant::now() + STREAM_PATIENCE);
                false
            }
            Event::InitApply(pod) => {
                self.pods.listed(pod.into());
                false
            }
            Event::InitDone => {
                self.stream_until = None;
                self.lookups.forget_all_but(&self.pods.end_list());
                true
            }
            Event::Apply(pod) => {
                self.pods.changed(pod.into());
                true
            }
            Event::Delete(pod) => {
                self.pods.deleted(&pod.metadata.uid.unwrap_or_default());
                true
            }
        }
    }

    /// Once at WARN, then quietly: the watcher tries again by itself, ever more slowly.
    fn complain(&mut self, error: &watcher::Error) {
        if std::mem::replace(&mut self.troubled, true) {
            tracing::debug!(err = %error, "the API server still does not answer");
        } else {
            tracing::warn!(err = %error, "cannot watch pods; what is known of them stays");
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.troubled) {
            tracing::info!("the API server answers again");
        }
    }
}

/// A time of this watch's own.
fn watch_seconds() -> u32 {
    // Each has keys of its own, by chance.
    let dice = RandomState::new().build_hasher().finish();
    let seconds = WATCH_SECONDS.start + dice % (WATCH_SECONDS.end - WATCH_SECONDS.start);
    seconds.try_into().unwrap_or(u32::MAX)
}

/// What a server that could stream lists says when its own store cannot (an old etcd).
const STORE_TOO_OLD: &str = "RequestWatchProgress";

/// Whether the server says that the request itself is wrong, which for an old one it is, or that its
/// store does not do that.
fn is_refusal(error: &watcher::Error) -> bool {
    let (watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    matches!(status.code, 400 | 405 | 422) || status.message.contains(STORE_TOO_OLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, message: &str) -> watcher::Error {
        let status = serde_json::json!({"code": code, "message": message});
        watcher::Error::WatchError(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn watches_do_not_all_last_the_same_time() {
        let times: std::collections::BTreeSet<u32> = (0..200).map(|_| watch_seconds()).collect();
        assert!(times.len() > 40, "{times:?}");
        assert!(
            times
                .iter()
                .all(|time| WATCH_SECONDS.contains(&u64::from(*time)))
        );
    }

    #[test]
    fn a_store_that_cannot_stream_lists_is_told_from_trouble() {
        let disabled = "the required storage feature RequestWatchProgress is disabled";
        assert!(is_refusal(&said(500, disabled)));
        assert!(!is_refusal(&said(500, "etcdserver: request timed out")));
        assert!(is_refusal(&said(422, "")));
    }
}
