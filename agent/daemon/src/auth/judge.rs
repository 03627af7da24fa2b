//! Whom the agent asks about its callers. A trait, so that tests need no cluster.

use std::collections::BTreeMap;

use super::Deed;

/// A user as the cluster knows it; what is asked about it must be asked with all of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    /// Its name, as in `system:serviceaccount:media:operator`.
    pub(crate) name: String,
    /// Its id; may be empty.
    pub(crate) uid: String,
    /// Its groups.
    pub(crate) groups: Vec<String>,
    /// What else the authenticator said of it.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered(pub(crate) String);

/// Somebody who knows callers and their permissions.
#[tonic::async_trait]
pub(crate) trait Judge: Send + Sync {
    /// Whose token it is; `None` when it is nobody's, or not meant for us.
    async fn user(&self, token: &str) -> Result<Option<User>, Unanswered>;

    /// Whether the user may do it in a namespace; without one: in all of them.
    async fn may(
        &self,
        user: &User,
        deed: Deed,
        namespace: Option<&str>,
    ) -> Result<bool, Unanswered>;
}
