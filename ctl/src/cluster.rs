//! The cluster: its kubeconfig, the agents in it, the road to each, and who we are to them.
//!
//! The only room of kube in this crate (L10): what goes in and comes out are types of our own.

mod forward;
mod pods;
mod survey;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

pub(crate) use self::forward::Forward;
use self::pods::AgentsPod;
pub(crate) use self::survey::{OptedIn, Policies, Right, Rollout};
use crate::args::Account;
use crate::failure::{Failure, Result};

/// How the agents' pods are known.
const AGENTS: &str = "app.kubernetes.io/name=sqlrep,app.kubernetes.io/component=agent";
/// What the tokens are made for.
const AUDIENCE: &str = "sqlrep";
/// The account that an installation brings for people.
const ACCOUNT: &str = "sqlrepctl";
/// The shortest life of a token that the API grants.
const TOKEN_SECONDS: i64 = 600;
/// A token older than this is not begun with.
const TOKEN_FRESH: Duration = Duration::from_mins(5);
/// The API answers in milliseconds, or it is not there.
const ANSWER: Duration = Duration::from_secs(10);
/// Twice as many as the largest clusters have nodes: in a rollout some have two.
const AGENTS_MAX: usize = 10_000;

/// Which cluster, and who to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// `--kubeconfig`.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub(crate) context: Option<String>,
    /// Where sqlrep is installed.
    pub(crate) namespace: String,
    /// `--service-account`.
    pub(crate) account: Option<Account>,
}

/// A connection to the cluster's API.
pub(crate) struct Cluster {
    client: Client,
    options: Options,
    token: Mutex<Option<(String, Instant)>>,
}

/// An agent's pod.
#[derive(Clone, Debug)]
pub(crate) struct AgentPod {
    /// The node that it serves.
    pub(crate) node: String,
    /// The road to it; or why there is none.
    pub(crate) road: Result<Forward, String>,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked yet.
    pub(crate) async fn of(options: &Options) -> Result<Self> {
        let mut config = config(options).await?;
        config.connect_timeout = Some(ANSWER);
        let client = Client::try_from(config)
            .map_err(|error| Failure::failed("cannot use the kubeconfig").caused_by(error))?;
        Ok(Self {
            client,
            options: options.clone(),
            token: Mutex::new(None),
        })
    }

    /// The namespace that sqlrep is installed in.
    pub(crate) fn namespace(&self) -> &str {
        &self.options.namespace
    }

    /// All agents, by node.
    pub(crate) async fn agents(&self) -> Result<Vec<AgentPod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace());
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let page = pods::page(&self.client, (self.namespace(), AGENTS), from);
            let (some, rest) = answered("cannot list the agents", page).await?;
            found.extend(some);
            if rest.is_none() || found.len() >= AGENTS_MAX {
                break;
            }
            from = rest;
        }
        let mut agents: Vec<AgentPod> = found
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| agent(&pods, pod))
            .collect();
        agents.sort_by(|one, two| one.node.cmp(&two.node));
        if agents.is_empty() {
            return Err(Failure::unreachable(format!(
                "there is no agent in the namespace {}",
                self.namespace()
            ))
            .hint("install sqlrep, or say where it is with --sqlrep-namespace"));
        }
        Ok(agents)
    }

    /// A token for the agents: of the chosen service account, made for nobody else.
    ///
    /// The kubeconfig's own token is never sent: it is good for the whole API, and an agent has no
    /// business with that.
    pub(crate) async fn token(&self) -> Result<String> {
        let mut kept = self.token.lock().await;
        if let Some((token, made)) = &*kept
            && made.elapsed() < TOKEN_FRESH
        {
            return Ok(token.clone());
        }
        let account = self.account();
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), &account.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: None,
            }),
            ..TokenRequest::default()
        };
        let what = format!(
            "cannot get a token of the service account {}/{}",
            account.namespace, account.name
        );
        let parameters = PostParams::default();
        let made = accounts.create_token_request(&account.name, &parameters, &request);
        let made = answered(&what, made).await.map_err(|failure| {
            failure.hint(
                "it takes the permission to create serviceaccounts/token for it; name another \
                 account with --service-account, or set SQLREP_TOKEN",
            )
        })?;
        let token = made
            .status
            .and_then(|status| status.token)
            .ok_or_else(|| Failure::failed(format!("{what}: the API made none")))?;
        *kept = Some((token.clone(), Instant::now()));
        Ok(token)
    }

    fn account(&self) -> Account {
        self.options.account.clone().unwrap_or_else(|| Account {
            namespace: self.options.namespace.clone(),
            name: ACCOUNT.to_owned(),
        })
    }
}

/// The kubeconfig, or what a pod is given.
async fn config(options: &Options) -> Result<Config> {
    let wanted = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let found = match &options.kubeconfig {
        Some(path) => match Kubeconfig::read_from(path) {
            Ok(config) => Config::from_custom_kubeconfig(config, &wanted).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&wanted).await,
    };
    let error = match found {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let nothing = matches!(
        &error,
        KubeconfigError::FindPath | KubeconfigError::ReadConfig(..)
    );
    let asked_for = options.kubeconfig.is_some() || options.context.is_some();
    if !nothing || asked_for {
        return Err(Failure::usage("cannot use the kubeconfig").caused_by(error));
    }
    Config::incluster().map_err(|_| {
        Failure::usage(
            "no agent given, and no kubeconfig found: use --agent unix:PATH or SQLREP_AGENT, \
             --kubeconfig FILE or KUBECONFIG, or --replica DIR",
        )
    })
}

/// What a pod of ours tells of its agent.
fn agent(pods: &Api<Pod>, pod: AgentsPod) -> AgentPod {
    let (name, node, phase) = (
        pod.metadata.name,
        pod.spec.node_name.clone(),
        pod.status.phase,
    );
    let road = match (&node, phase.as_str()) {
        (Some(node), "Running") => {
            let port = forward::port_of(&pod.spec);
            Ok(Forward::new(pods.clone(), node, &name, port))
        }
        (Some(_), _) => Err(format!("its agent, pod {name}, is {phase}")),
        (None, _) => Err(format!("pod {name} has no node yet")),
    };
    AgentPod {
        node: node.unwrap_or_else(|| "-".to_owned()),
        road,
    }
}

/// The API's answer, in time and in our words.
async fn answered<T>(what: &str, asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T> {
    match timeout(ANSWER, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, error)),
        Err(_) => Err(Failure::unreachable(format!(
            "{what}: the cluster's API does not answer"
        ))),
    }
}

fn failure(what: &str, error: kube::Error) -> Failure {
    let kube::Error::Api(status) = &error else {
        return Failure::unreachable(what)
            .caused_by(error)
            .hint("does kubectl reach the cluster with this kubeconfig and context?");
    };
    let said = format!("{what}: {}", status.message);
    match status.code {
        401 | 403 => Failure::refused(said),
        404 => Failure::not_found(said),
        429 | 500.. => Failure::unreachable(said),
        _ => Failure::failed(said),
    }
}
