//! Who may call what, where the agent runs in a cluster.
//!
//! A caller shows a token of the cluster's for the audience [`AUDIENCE`]; the API says whose it is
//! (TokenReview) and what that user may do (SubjectAccessReview). What can be asked for is the
//! virtual resource `replicas` of the group `sqlrep.io`: no such objects exist, RBAC names them all
//! the same. Verdicts are kept for seconds, and where the API does not answer nobody may anything.
//!
//! The unix socket asks nobody. Its mode is 0600, so whoever opens it is root on the node (or runs
//! as the agent), and could read the databases and the replicas without us.

mod deed;
mod judge;
mod kube;
mod memo;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use crate::rpc::{Origin, Peer};

pub(crate) use self::deed::Deed;
pub(crate) use self::judge::{Judge, Unanswered, User};
pub(crate) use self::kube::ApiJudge;
use self::memo::Memo;

/// What a token must have been made for: one that was stolen here is of no use elsewhere.
pub(crate) const AUDIENCE: &str = "sqlrep";

/// A token with a hundred groups has some kilobytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The API answers within milliseconds or is not there.
const ANSWER: Duration = Duration::from_secs(5);

/// How long an answer is believed: so long a permission that was taken away still works.
const BELIEVED: Duration = Duration::from_secs(10);

/// A refusal is asked about again sooner: somebody is just granting what is missing.
const REFUSAL_BELIEVED: Duration = Duration::from_secs(2);

/// Callers that are remembered: people and scripts, not pods.
const CALLERS_MAX: usize = 256;

/// Verdicts that are remembered: some namespaces for each caller.
const VERDICTS_MAX: usize = 4096;

/// A namespace's name has no more bytes; what has is neither asked about nor remembered.
const NAMESPACE_BYTES_MAX: usize = 253;

/// Namespaces that one call may ask about, one by one, for a caller who may not see all.
const NAMESPACES_MAX: usize = 1000;

/// What is asked of each call.
#[derive(Clone)]
pub(crate) struct Door(Option<Arc<Guarded>>);

/// A door with somebody to ask.
struct Guarded {
    judge: Box<dyn Judge>,
    users: Memo<String, Option<Arc<User>>>,
    verdicts: Memo<Question, bool>,
}

/// A question about a user; without a namespace about all of them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    user: Arc<User>,
    deed: Deed,
    namespace: Option<String>,
}

/// Who calls, and whom to ask what it may.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Option<Known>);

/// A caller about whom there is somebody to ask.
#[derive(Clone)]
struct Known {
    user: Arc<User>,
    guarded: Arc<Guarded>,
}

/// The namespaces that a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Whatever there is.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Sight {
    /// Whether something in this namespace may be shown.
    pub(crate) fn shows(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0.is_some() { "guarded" } else { "open" };
        f.debug_tuple("Door").field(&kind).finish()
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)
    }
}

impl Door {
    /// Asks nobody: without a cluster there is nobody to ask, and what reaches a socket of ours is
    /// on this machine, or has shown a certificate.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// Asks the judge.
    pub(crate) fn guarded(judge: impl Judge + 'static) -> Self {
        Self(Some(Arc::new(Guarded {
            judge: Box::new(judge),
            users: Memo::new(CALLERS_MAX),
            verdicts: Memo::new(VERDICTS_MAX),
        })))
    }

    /// Who calls.
    pub(crate) async fn caller(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Caller, Status> {
        let Some(guarded) = &self.0 else {
            return Ok(Caller(None));
        };
        if Peer::of(extensions).is_some_and(|peer| peer.origin() == Origin::Node) {
            return Ok(Caller(None));
        }
        let user = guarded.user(token(metadata)?).await?.ok_or_else(|| {
            Status::unauthenticated(format!(
                "the cluster does not know this token, or it was not made for the audience \
                 {AUDIENCE}, or it has expired; get a new one"
            ))
        })?;
        let guarded = Arc::clone(guarded);
        Ok(Caller(Some(Known { user, guarded })))
    }
}

/// The token that came with a call.
fn token(metadata: &MetadataMap) -> Result<&str, Status> {
    let missing = || {
        Status::unauthenticated(format!(
            "this agent asks who calls: a token for the audience {AUDIENCE} is missing; sqlrepctl \
             brings one when it goes through a kubeconfig, or sends SQLREP_TOKEN"
        ))
    };
    let value = metadata.get("authorization").ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(missing());
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Status::unauthenticated(format!(
            "a token of more than {TOKEN_BYTES_MAX} bytes is not looked at"
        )));
    }
    Ok(token)
}

impl Guarded {
    async fn user(&self, token: &str) -> Result<Option<Arc<User>>, Status> {
        let key = token.to_owned();
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        let user = answered(self.judge.user(token)).await?.map(Arc::new);
        self.users.put(key, user.clone(), believed(user.is_some()));
        Ok(user)
    }

    async fn may(&self, question: Question) -> Result<bool, Status> {
        if let Some(verdict) = self.verdicts.get(&question) {
            return Ok(verdict);
        }
        let namespace = question.namespace.as_deref();
        let asked = self.judge.may(&question.user, question.deed, namespace);
        let verdict = answered(asked).await?;
        self.verdicts.put(question, verdict, believed(verdict));
        Ok(verdict)
    }
}

fn believed(yes: bool) -> Duration {
    if yes { BELIEVED } else { REFUSAL_BELIEVED }
}

/// The judge's answer. Without one nobody may anything, and the caller may try again.
async fn answered<T>(asked: impl Future<Output = Result<T, Unanswered>>) -> Result<T, Status> {
    let because = match timeout(ANSWER, asked).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(Unanswered(because))) => because,
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(err = because, "the API cannot say who may call");
    Err(Status::unavailable(format!(
        "the agent cannot ask the API whether you may: {because}; nothing was done, try again"
    )))
}

impl Caller {
    /// Whether the caller may do it in a namespace (without one: in all of them).
    async fn may(&self, deed: Deed, namespace: Option<&str>) -> Result<bool, Status> {
        let Some(Known { user, guarded }) = &self.0 else {
            return Ok(true);
        };
        if namespace.is_some_and(|name| name.len() > NAMESPACE_BYTES_MAX) {
            return Err(Status::invalid_argument(format!(
                "a namespace's name has at most {NAMESPACE_BYTES_MAX} bytes"
            )));
        }
        let question = Question {
            user: Arc::clone(user),
            deed,
            namespace: namespace.map(str::to_owned),
        };
        guarded.may(question).await
    }

    /// Refuses what the caller may not do, and names the permission that is missing.
    pub(crate) async fn require(&self, deed: Deed, namespace: Option<&str>) -> Result<(), Status> {
        let may = self.may(deed, namespace).await?;
        if may && deed.changes() {
            tracing::info!(user = self.name(), ns = namespace, %deed, "allowed");
        }
        if may {
            Ok(())
        } else {
            Err(self.refusal(deed, namespace))
        }
    }

    fn refusal(&self, deed: Deed, namespace: Option<&str>) -> Status {
        let user = self.name();
        tracing::info!(user, ns = namespace, %deed, "refused");
        let place = namespace.map_or_else(
            || "in the whole cluster".to_owned(),
            |namespace| format!("in namespace {namespace}"),
        );
        Status::permission_denied(format!(
            "{user} may not {deed} {place}; it takes a role with apiGroups: [sqlrep.io], \
             resources: [{}], verbs: [{}]",
            deed.resource(),
            deed.verb()
        ))
    }

    /// The name that the cluster knows the caller by.
    fn name(&self) -> &str {
        self.0
            .as_ref()
            .map_or("root on the node", |known| &known.user.name)
    }

    /// Which of the namespaces at hand the caller may see; refused when it is none at all.
    /// `asked` is the one that the caller named; empty: all.
    pub(crate) async fn sight(
        &self,
        asked: &str,
        at_hand: impl IntoIterator<Item = String>,
    ) -> Result<Sight, Status> {
        if !asked.is_empty() {
            self.require(Deed::List, Some(asked)).await?;
            return Ok(Sight::All);
        }
        if self.may(Deed::List, None).await? {
            return Ok(Sight::All);
        }
        let at_hand: BTreeSet<String> = at_hand.into_iter().collect();
        if at_hand.len() > NAMESPACES_MAX {
            return Err(Status::resource_exhausted(format!(
                "there are more than {NAMESPACES_MAX} namespaces to ask the API about one by one; \
                 name one with -n"
            )));
        }
        let mut seen = BTreeSet::new();
        for namespace in at_hand {
            if self.may(Deed::List, Some(&namespace)).await? {
                seen.insert(namespace);
            }
        }
        if seen.is_empty() {
            return Err(self.refusal(Deed::List, None));
        }
        Ok(Sight::Only(seen))
    }
}

#[cfg(test)]
mod tests;
