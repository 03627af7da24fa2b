//! The agents to ask: one that was named, or all of a cluster, some of which may be dead.
//!
//! Questions go to all of them, a bounded number at once; an agent that does not answer is one line
//! on standard error, and only when none answers has the question failed. Connections last for one
//! question: a cluster may have more nodes than this process should hold streams to.

mod asking;
mod watch;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

pub(crate) use self::watch::{News, Watches};
pub(crate) use self::work::{Group, Job, work};
use crate::app::Context;
use crate::client::{Client, Endpoint, Info};
use crate::cluster::Cluster;
use crate::database::{Database, Id, Replica, State};
use crate::failure::{Exit, Failure, Result};
use crate::options::Reach;
use crate::output::Output;
use crate::reference::{Named, Reference};

/// Agents that are asked at once: enough to hide the way there, few enough for any API server.
const AT_ONCE: usize = 32;
/// Through the API and a kubelet to the agent.
const ROAD: Duration = Duration::from_secs(15);
/// Agents that are asked, one after another, for what any of them can tell.
const TRIED_MAX: usize = 8;
/// Where else a replica may be that nobody here has.
const WITH_ITS_POD: &str = "a replica in a volume of its pod (sqlrep.io/target-volume) can be \
                            reached while that pod is there, or by --replica DIR where that volume \
                            is mounted";

/// The agents to ask.
pub(crate) struct Agents {
    roads: Vec<Road>,
    cluster: Option<Cluster>,
    token: Option<OsString>,
    timeout: Option<Duration>,
    namespace: Option<String>,
    /// How many did not answer the last question.
    silent: AtomicUsize,
}

/// The way to one agent, or why there is none.
struct Road {
    node: String,
    endpoint: Result<Endpoint, String>,
}

/// A database, and the agent that told of it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// The database.
    pub(crate) database: Database,
    /// The agent, as an index that only [`Agents`] understands.
    agent: usize,
}

impl Named for Seat {
    fn name(&self) -> String {
        self.database.name()
    }
}

/// Which of two databases of one name is meant, while a pod moves from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The one that is followed.
    Followed,
    /// The one that waits for the replica.
    Waiting,
}

impl Meant {
    /// Least is meant most.
    fn rank(self, state: State) -> u8 {
        let followed = match state {
            State::Following => 0,
            State::Snapshotting => 1,
            State::Draining => 2,
            State::Stalled => 3,
            State::Restoring | State::Found => 4,
            State::Fenced | State::Unsupported | State::Unknown => 5,
            State::Gone => 6,
        };
        match (self, state) {
            (Self::Waiting, State::Following | State::Snapshotting | State::Draining) => {
                followed + 10
            }
            _ => followed,
        }
    }
}

impl Agents {
    /// Finds them.
    pub(crate) async fn find(context: &Context, reach: &Reach) -> Result<Self> {
        let token = context.environment.token.clone();
        let (roads, cluster) = match reach {
            Reach::One(endpoint) => (vec![Road::to(endpoint)], None),
            Reach::Cluster(options) => {
                let cluster = Cluster::of(options).await?;
                let agents = cluster.agents().await?;
                let roads = agents.into_iter().map(|agent| Road {
                    node: agent.node,
                    endpoint: agent.road.map(Box::new).map(Endpoint::Pod),
                });
                (roads.collect(), Some(cluster))
            }
        };
        Ok(Self {
            roads,
            cluster,
            token,
            timeout: context.global.timeout,
            namespace: context.global.namespace.clone(),
            silent: AtomicUsize::new(0),
        })
    }

    /// What the question is restricted to.
    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Connects to an agent.
    async fn client(&self, agent: usize) -> Result<Client> {
        let endpoint = match &self.roads[agent].endpoint {
            Ok(endpoint) => endpoint,
            Err(why) => return Err(Failure::unreachable(why)),
        };
        let token = match (&self.token, &self.cluster) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(cluster)) => Some(cluster.token().await?.into()),
            (None, None) => None,
        };
        let road = Client::connect(endpoint, token.as_deref(), self.timeout);
        match timeout(ROAD, road).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::unreachable(format!(
                "no road to {endpoint} in time"
            ))),
        }
    }

    /// Asks all agents. What some of them answer is the answer; the others are said.
    async fn ask<T>(
        &self,
        output: &mut Output,
        question: impl AsyncFn(Client) -> Result<T>,
    ) -> Result<Vec<(usize, T)>> {
        if let [_] = self.roads[..] {
            return match self.put(0, &question).await {
                Ok(answer) => Ok(vec![(0, answer)]),
                Err(failure) => Err(failure),
            };
        }
        // A token that nobody gets is said once, not for each node.
        if let (None, Some(cluster)) = (&self.token, &self.cluster) {
            cluster.token().await?;
        }
        let question = &question;
        let put = async move |agent| self.put(agent, question).await;
        let all = asking::all(self.roads.len(), asking::bar(self.roads.len(), output), put).await;
        self.sort_out(all, output)
    }

    /// Puts the question to one agent.
    async fn put<T>(
        &self,
        agent: usize,
        question: &impl AsyncFn(Client) -> Result<T>,
    ) -> Result<T> {
        let answer = async { question(self.client(agent).await?).await };
        match answer.await {
            Err(failure) => Err(self.explained(agent, failure).await),
            answer => answer,
        }
    }

    /// The failure with what the kubelet said of it, if it said something.
    async fn explained(&self, agent: usize, failure: Failure) -> Failure {
        let Ok(Endpoint::Pod(forward)) = &self.roads[agent].endpoint else {
            return failure;
        };
        if failure.exit != Exit::Unreachable {
            return failure;
        }
        match forward.complaint().await {
            said if said.is_empty() => failure,
            said => Failure::unreachable(format!("{failure}: {said}")),
        }
    }

    /// Answers by node; fails when there is none.
    fn sort_out<T>(
        &self,
        all: Vec<(usize, Result<T>)>,
        output: &mut Output,
    ) -> Result<Vec<(usize, T)>> {
        let (mut answers, mut failures) = (Vec::new(), BTreeMap::new());
        for (agent, answer) in all {
            match answer {
                Ok(answer) => answers.push((agent, answer)),
                Err(failure) => {
                    failures.insert(agent, failure);
                }
            }
        }
        answers.sort_by_key(|(agent, _)| *agent);
        if answers.is_empty() {
            let several = failures.len();
            let mut failures: Vec<Failure> = failures.into_values().collect();
            // One refusal is every agent's, be some of them dead.
            let refused = failures
                .iter()
                .position(|failure| failure.exit == Exit::Refused);
            return Err(match (refused, failures.is_empty()) {
                (Some(first), _) => failures.swap_remove(first),
                (None, false) => Failure::unreachable(format!("none of {several} agents answers"))
                    .caused_by(failures.swap_remove(0)),
                (None, true) => Failure::unreachable("there is no agent to ask"),
            });
        }
        let node_of = |agent: usize| self.roads[agent].node.as_str();
        let answered: BTreeSet<&str> = answers.iter().map(|(agent, _)| node_of(*agent)).collect();
        let mut silent = Vec::new();
        for (agent, failure) in &failures {
            let node = node_of(*agent);
            // A node that holds nothing of the caller's refuses; the others have answered for it.
            if failure.exit == Exit::Refused {
                continue;
            }
            if answered.contains(node) {
                // In a rollout two are there, and the one that waits serves nobody yet.
                output.note(&format!(
                    "node {node}: its next agent stands by until the one that answers has ended"
                ));
            } else {
                silent.push((node, failure));
            }
        }
        asking::say(&silent, output);
        self.silent.store(silent.len(), Ordering::Relaxed);
        Ok(answers)
    }

    /// In words, what is missing in the last answer.
    pub(crate) fn missing(&self) -> Option<String> {
        let (silent, all) = (self.silent.load(Ordering::Relaxed), self.roads.len());
        (silent > 0)
            .then(|| format!("{silent} of {all} nodes did not answer: theirs is missing here"))
    }

    /// The databases of all agents.
    pub(crate) async fn list(&self, output: &mut Output) -> Result<Vec<Seat>> {
        let namespace = self.namespace();
        let answers = self
            .ask(output, async |client: Client| client.list(namespace).await)
            .await?;
        let seats = answers.into_iter().flat_map(|(agent, databases)| {
            let seat = move |database| Seat { database, agent };
            databases.into_iter().map(seat)
        });
        Ok(seats.collect())
    }

    /// The replicas that belong to no pod. All agents see the same root, so one of them is asked.
    pub(crate) async fn replicas(&self, output: &mut Output) -> Result<Vec<Replica>> {
        let namespace = self.namespace();
        let mut replicas = self
            .any(async |client: Client| client.replicas(namespace).await)
            .await?;
        if self.cluster.is_some() {
            let live = self.list(output).await?;
            replicas.retain(|replica| live.iter().all(|seat| seat.name() != replica.name));
        }
        Ok(replicas)
    }

    /// Who they are, by node.
    pub(crate) async fn infos(&self, output: &mut Output) -> Result<Vec<Info>> {
        let answers = self
            .ask(output, async |client: Client| client.info().await)
            .await?;
        Ok(answers.into_iter().map(|(_, info)| info).collect())
    }

    /// Asks one after another until one answers.
    async fn any<T>(&self, question: impl AsyncFn(Client) -> Result<T>) -> Result<T> {
        let mut last = Failure::unreachable("no agent has a road to it");
        let roads = self.roads.iter().enumerate();
        let open = roads.filter(|(_, road)| road.endpoint.is_ok());
        for (agent, _) in open.take(TRIED_MAX) {
            let asked = async { question(self.client(agent).await?).await };
            match asked.await {
                Err(failure) if failure.exit == Exit::Unreachable => last = failure,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// The live database that a reference means, and its agent.
    pub(crate) async fn live(
        &self,
        reference: &Reference,
        meant: Meant,
        output: &mut Output,
    ) -> Result<(Client, Id)> {
        let seats = once(self.list(output).await?, meant);
        let seat = reference.one(&seats)?;
        Ok((self.client(seat.agent).await?, seat.database.id.clone()))
    }

    /// The database that a reference means, be it only a replica that is left of it.
    ///
    /// Replicas are asked for only when no live database answers to the name: listing a share is
    /// slow, and a name must not become ambiguous by what nobody uses any more.
    pub(crate) async fn replica(
        &self,
        reference: &Reference,
        output: &mut Output,
    ) -> Result<(Client, Id)> {
        let unknown = match self.live(reference, Meant::Followed, output).await {
            Err(failure) if failure.exit == Exit::NotFound => failure,
            found => return found,
        };
        let replicas = self.replicas(output).await?;
        match reference.one(&replicas) {
            Ok(replica) => Ok((
                self.any(async |client| Ok(client)).await?,
                Client::id_of(replica)?,
            )),
            Err(failure) if failure.exit == Exit::NotFound => {
                let near = unknown.next_step().map(|hint| format!("{hint}; "));
                let near = near.unwrap_or_default();
                Err(unknown.hint(format!("{near}{WITH_ITS_POD}")))
            }
            Err(failure) => Err(failure),
        }
    }

    /// All databases that some references mean, each once, by agent.
    pub(crate) async fn several(
        &self,
        references: &[Reference],
        all: bool,
        output: &mut Output,
    ) -> Result<Vec<Group>> {
        let seats = once(self.list(output).await?, Meant::Followed);
        let mut by_agent: BTreeMap<usize, Vec<Id>> = BTreeMap::new();
        for seat in crate::cmd::pick(&seats, references, all)? {
            by_agent
                .entry(seat.agent)
                .or_default()
                .push(seat.database.id.clone());
        }
        let groups = by_agent.into_iter();
        Ok(groups.map(|(agent, ids)| Group::at(agent, ids)).collect())
    }

    /// The replicas that some references mean, and an agent that can read them.
    pub(crate) async fn several_replicas(
        &self,
        references: &[Reference],
        all: bool,
        output: &mut Output,
    ) -> Result<Vec<Group>> {
        let replicas = self.replicas(output).await?;
        let picked = crate::cmd::pick(&replicas, references, all)?;
        let ids: Result<Vec<Id>> = picked.into_iter().map(Client::id_of).collect();
        let reader = self.any(async |client| Ok(client)).await?;
        Ok(vec![Group::of(reader, ids?)])
    }
}

/// Each name once: of two, the one that is meant.
fn once(seats: Vec<Seat>, meant: Meant) -> Vec<Seat> {
    let mut by_name: BTreeMap<String, Seat> = BTreeMap::new();
    for seat in seats {
        let rank = |seat: &Seat| meant.rank(seat.database.state);
        match by_name.get(&seat.name()) {
            Some(known) if rank(known) <= rank(&seat) => {}
            _ => {
                by_name.insert(seat.name(), seat);
            }
        }
    }
    by_name.into_values().collect()
}

impl Road {
    fn to(endpoint: &Endpoint) -> Self {
        Self {
            node: endpoint.to_string(),
            endpoint: Ok(endpoint.clone()),
        }
    }
}
