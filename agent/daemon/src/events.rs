//! What a person is told about a pod, where people look: Events on the pod object.
//!
//! Whoever has something to say calls [`Notices::say`], which never waits. One task counts what is
//! said twice, bounds what is said of one pod, and hands the rest to a [`Publish`]: the API server,
//! or nobody where there is none (each notice is a log line in any case).

mod board;
mod publish;
mod tally;

use std::future::Future;

use sqlrep_discover::PodRef;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use board::watch_board;
use publish::Nobody;
pub(crate) use publish::Server;
use tally::{Tally, Verdict};

/// Notices that wait to be published (L12); what comes beyond is in the log only.
const QUEUE: usize = 256;

/// What happened, as `kubectl describe` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A database is being put back.
    RestoreStarted,
    /// A database was put back.
    Restored,
    /// It could not be put back, and the gate stays shut.
    RestoreFailed,
    /// The last owner of the replica may still write: so it is at every move.
    WaitingForHandover,
    /// It is waited for longer than a move takes.
    HandoverOverdue,
    /// The replica is somebody else's.
    ReplicaConflict,
    /// Another writer took the replica over.
    Fenced,
    /// The app began without a restore, beside a replica that has data.
    UngatedStart,
    /// An annotation or the label has a value that is not accepted.
    BadAnnotation,
    /// Commits wait for long.
    Lagging,
    /// A database cannot be followed.
    Unsupported,
    /// The replica does not fit into the volume.
    VolumeTooSmall,
    /// A part of the replica is damaged; what was done about it, and what is lost.
    ReplicaDamaged,
    /// An earlier pod of the app took commits with it that nobody had read.
    UnreadEnd,
    /// The app's own database is damaged; its replica holds it as it is.
    DatabaseDamaged,
    /// A followed database got a second name.
    HardLink,
}

impl Reason {
    /// The word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RestoreStarted => "RestoreStarted",
            Self::Restored => "Restored",
            Self::RestoreFailed => "RestoreFailed",
            Self::WaitingForHandover => "WaitingForHandover",
            Self::HandoverOverdue => "HandoverOverdue",
            Self::ReplicaConflict => "ReplicaConflict",
            Self::Fenced => "Fenced",
            Self::UngatedStart => "UngatedStart",
            Self::BadAnnotation => "BadAnnotation",
            Self::Lagging => "Lagging",
            Self::Unsupported => "Unsupported",
            Self::VolumeTooSmall => "VolumeTooSmall",
            Self::ReplicaDamaged => "ReplicaDamaged",
            Self::UnreadEnd => "UnreadEnd",
            Self::DatabaseDamaged => "DatabaseDamaged",
            Self::HardLink => "HardLink",
        }
    }

    /// Whether somebody should have a look.
    pub(crate) const fn is_warning(self) -> bool {
        !matches!(
            self,
            Self::RestoreStarted | Self::Restored | Self::WaitingForHandover
        )
    }
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodName {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

impl From<&PodRef> for PodName {
    fn from(pod: &PodRef) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
        }
    }
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    /// Of which pod.
    pub(crate) pod: PodName,
    /// What happened.
    pub(crate) reason: Reason,
    /// In words, with what to do.
    pub(crate) note: String,
}

/// What is published of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saying {
    /// The notice.
    pub(crate) notice: Notice,
    /// The name of its Event object, the same each time.
    pub(crate) name: String,
    /// How often it was said; from 2 on the object is there already.
    pub(crate) count: u32,
}

/// Where events go.
pub(crate) trait Publish: Send + 'static {
    /// Publishes one. An error is worth another try.
    fn publish(&mut self, saying: &Saying) -> impl Future<Output = Result<(), String>> + Send;
}

/// The handle of all who have something to say; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// The handle, and what [`run`] needs.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Says it. Never waits: what does not fit is in the log only.
    pub(crate) fn say(&self, pod: impl Into<PodName>, reason: Reason, note: impl Into<String>) {
        let (pod, note) = (pod.into(), note.into());
        tracing::debug!(
            ns = pod.namespace,
            pod = pod.name,
            reason = reason.as_str(),
            note,
            "event"
        );
        let notice = Notice { pod, reason, note };
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!(err = %error, "event is not published");
        }
    }
}

/// Publishes until told to stop: to the API server, where there is one.
pub(crate) async fn publish(
    notices: mpsc::Receiver<Notice>,
    server: Option<Server>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match server {
        Some(server) => run(notices, server, stop).await,
        None => run(notices, Nobody, stop).await,
    }
}

/// Publishes until told to stop.
async fn run<P: Publish>(
    mut notices: mpsc::Receiver<Notice>,
    mut publisher: P,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    loop {
        let notice = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // Nobody is left who could say something: then only the end is waited for.
            Some(notice) = notices.recv() => notice,
            else => { stop.cancelled().await; return Ok(()); }
        };
        let Verdict::Say(saying) = tally.judge(notice, Instant::now()) else {
            continue;
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            published = publisher.publish(&saying) => if let Err(error) = published {
                tracing::debug!(err = error, event = saying.name, "event is not published");
                tally.failed(&saying.notice);
            },
        }
    }
}
