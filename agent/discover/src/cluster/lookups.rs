//! What a pod does not say itself: who owns its owner, the UID of its namespace, and what lies behind
//! the claim that it names for its replicas. Each is asked once and kept as long as a pod needs it.

mod claim;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::pods::manifest::{LookedUp, Manifest};
use crate::target::Claimed;

/// Questions that are on their way at once (L12).
const IN_FLIGHT_MAX: usize = 8;
/// An API server that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// First pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// A claim that could not be used is looked at again after this: somebody may have mended it.
const CLAIM_AGAIN: Duration = Duration::from_secs(5);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Something to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// The UID of a namespace.
    Namespace(String),
    /// The name of the object at the top of a `Job` or `ReplicaSet`.
    Owner {
        /// Which of the two.
        kind: String,
        /// Where it lies.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID: another of the same name is somebody else.
        uid: String,
    },
    /// What lies behind a claim.
    Claim {
        /// Where it lies.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A name or a UID; `None` where it has no such thing, or does not let us see it.
    Text(Option<String>),
    /// What lies behind a claim, or why it cannot be used.
    Claimed(Result<Claimed, String>),
}

/// Questions and answers.
#[derive(Debug)]
pub(super) struct Lookups {
    client: Asker,
    answers: BTreeMap<Question, Answer>,
    asked: BTreeSet<Question>,
    tasks: JoinSet<(Question, Result<Answer, String>)>,
    pause: Duration,
    retry_at: Option<Instant>,
    /// When claims that could not be used are looked at again.
    claims_at: Option<Instant>,
}

/// Asks the server.
#[derive(Clone)]
struct Asker(Client);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

impl Lookups {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client: Asker(client),
            answers: BTreeMap::new(),
            asked: BTreeSet::new(),
            tasks: JoinSet::new(),
            pause: PAUSE_MIN,
            retry_at: None,
            claims_at: None,
        }
    }

    /// Whether the answer is known; if it is not, it is asked for. Questions past the bound are
    /// asked when others are answered: whoever needs the answer comes back then.
    pub(super) fn is_answered_or_asks(&mut self, question: &Question) -> bool {
        if self.answers.contains_key(question) {
            return true;
        }
        let may_ask = self.retry_at.is_none() && self.tasks.len() < IN_FLIGHT_MAX;
        if may_ask && self.asked.insert(question.clone()) {
            let (asker, question) = (self.client.clone(), question.clone());
            self.tasks.spawn(async move {
                let answer = timeout(PATIENCE, asker.ask(&question)).await;
                let late = |_| Err(format!("no answer within {PATIENCE:?}"));
                (question, answer.unwrap_or_else(late))
            });
        }
        false
    }

    /// What is known for a pod.
    pub(super) fn of(&self, pod: &Manifest) -> LookedUp {
        let mut found = LookedUp::default();
        for question in &Question::all(pod) {
            match (question, self.answers.get(question)) {
                (Question::Namespace(_), Some(Answer::Text(text))) => {
                    found.namespace_uid.clone_from(text);
                }
                (Question::Owner { .. }, Some(Answer::Text(text))) => {
                    found.top_owner.clone_from(text);
                }
                (Question::Claim { .. }, Some(Answer::Claimed(claimed))) => {
                    found.claimed = Some(claimed.clone());
                }
                _ => {}
            }
        }
        found
    }

    /// Keeps the answers that are still needed.
    pub(super) fn forget_all_but(&mut self, needed: &BTreeSet<Question>) {
        self.answers.retain(|question, _| needed.contains(question));
    }

    /// Waits for an answer, or for ever. Safe to be dropped at any moment.
    pub(super) async fn answered(&mut self) {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok((question, answer))) => self.take(question, answer),
            // Only a panic ends one otherwise: everything that is open is asked again.
            Some(Err(error)) => {
                tracing::error!(err = %error, "a lookup panicked: a bug");
                self.tasks.abort_all();
                self.asked.clear();
                self.rest();
            }
        }
    }

    /// As if the server had answered.
    #[cfg(test)]
    pub(super) fn insert(&mut self, question: Question, answer: Option<String>) {
        self.answers.insert(question, Answer::Text(answer));
    }

    fn take(&mut self, question: Question, answer: Result<Answer, String>) {
        self.asked.remove(&question);
        match answer {
            Ok(answer) => {
                self.pause = PAUSE_MIN;
                if matches!(answer, Answer::Claimed(Err(_))) {
                    self.claims_at.get_or_insert(Instant::now() + CLAIM_AGAIN);
                }
                self.answers.insert(question, answer);
            }
            Err(error) => {
                tracing::warn!(
                    ?question,
                    err = error,
                    "the API server does not say; asked again"
                );
                self.rest();
            }
        }
    }

    fn rest(&mut self) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// When failed questions are to be asked again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.claims_at).min()
    }

    /// A rest is over.
    pub(super) fn try_again(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.claims_at.is_some_and(|at| at <= now) {
            self.claims_at = None;
            self.answers
                .retain(|_, answer| !matches!(answer, Answer::Claimed(Err(_))));
        }
    }
}

impl Asker {
    async fn ask(&self, question: &Question) -> Result<Answer, String> {
        let client = self.0.clone();
        let (meta, uid) = match question {
            Question::Namespace(name) => {
                let api = Api::<PartialObjectMeta<Namespace>>::all(client);
                let found = api.get(name).await.map(|object| object.metadata);
                let uid = seen(question, found)?.and_then(|meta| meta.uid);
                return Ok(Answer::Text(uid));
            }
            Question::Claim { namespace, name } => {
                return claim::look_up(client, namespace, name)
                    .await
                    .map(Answer::Claimed);
            }
            Question::Owner {
                kind,
                namespace,
                name,
                uid,
            } => {
                let found = if kind == "Job" {
                    let api = Api::<PartialObjectMeta<Job>>::namespaced(client, namespace);
                    api.get(name).await.map(|object| object.metadata)
                } else {
                    let api = Api::<PartialObjectMeta<ReplicaSet>>::namespaced(client, namespace);
                    api.get(name).await.map(|object| object.metadata)
                };
                (seen(question, found)?, uid)
            }
        };
        let meta = meta.filter(|meta| meta.uid.as_ref() == Some(uid));
        Ok(Answer::Text(meta.and_then(|meta| top_of(&meta))))
    }
}

/// What was found; nothing, with a word, where asking again would not help.
fn seen(
    question: &Question,
    found: Result<ObjectMeta, kube::Error>,
) -> Result<Option<ObjectMeta>, String> {
    match found {
        Ok(meta) => Ok(Some(meta)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
            tracing::warn!(
                ?question,
                err = status.message,
                "cannot be looked up; names must do"
            );
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The name of the object that controls this one, or its own.
fn top_of(meta: &ObjectMeta) -> Option<String> {
    let mut owners = meta.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller
        .map(|owner| owner.name.clone())
        .or_else(|| meta.name.clone())
}
