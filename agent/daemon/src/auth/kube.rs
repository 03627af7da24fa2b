//! The cluster's API as judge: TokenReview and SubjectAccessReview.

use ::kube::api::{Api, PostParams};
use ::kube::{Client, Error};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};

use super::{AUDIENCE, Deed, Judge, Unanswered, User};

/// The group of the virtual resource.
const GROUP: &str = "sqlrep.io";

/// Asks the API.
pub(crate) struct ApiJudge(Client);

impl ApiJudge {
    /// Asks through this client.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The cluster that this process runs in, or that KUBECONFIG names.
    pub(crate) async fn of_process() -> Result<Self, Error> {
        Client::try_default().await.map(Self)
    }
}

/// The error with its causes: the outer ones alone say little.
fn unanswered(error: &Error) -> Unanswered {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let because = error.to_string();
        if !text.contains(&because) {
            text = format!("{text}: {because}");
        }
        cause = error.source();
    }
    Unanswered(text)
}

#[tonic::async_trait]
impl Judge for ApiJudge {
    async fn user(&self, token: &str) -> Result<Option<User>, Unanswered> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.0.clone());
        let review = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| unanswered(&error))?;
        let status = review.status.unwrap_or_default();
        // A server that knows no audiences names none, and then the token may be meant for anybody.
        let ours = status
            .audiences
            .is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
        let known = status.authenticated.unwrap_or_default() && ours;
        Ok(status.user.filter(|_| known).map(User::from))
    }

    async fn may(
        &self,
        user: &User,
        deed: Deed,
        namespace: Option<&str>,
    ) -> Result<bool, Unanswered> {
        let asked = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some("replicas".to_owned()),
            subresource: Some(deed.subresource().to_owned()).filter(|name| !name.is_empty()),
            verb: Some(deed.verb().to_owned()),
            namespace: namespace.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(asked),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.0.clone());
        let review = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| unanswered(&error))?;
        let status = review.status.unwrap_or_default();
        Ok(status.allowed && !status.denied.unwrap_or_default())
    }
}

impl From<UserInfo> for User {
    fn from(info: UserInfo) -> Self {
        Self {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        }
    }
}
