//! The watches of several agents as one. An agent that goes away is waited for, not mourned.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Agents;
use crate::client::Change;
use crate::failure::{Exit, Failure, Result};

/// Streams that this process holds open at once.
const WATCHED_MAX: usize = 256;
/// Changes that wait to be shown.
const QUEUE: usize = 256;
/// How long after its end an agent is asked again, at first and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// What an agent told, or that it is silent.
#[derive(Debug)]
pub(crate) enum News {
    /// A change of a database.
    Change(Change),
    /// All that it told before may be no longer so: it will tell all again.
    Silent(Failure),
}

/// News of all agents, each with the node that it comes from.
#[derive(Debug)]
pub(crate) struct Watches {
    news: mpsc::Receiver<(String, News)>,
    /// Agents that may still tell something.
    open: usize,
    alone: bool,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch.
    pub(crate) fn begin(agents: &Arc<Agents>) -> Result<Self> {
        let several = agents.roads.len();
        if several > WATCHED_MAX {
            return Err(Failure::refused(format!(
                "{several} agents are too many to watch at once; {WATCHED_MAX} are the most"
            ))
            .hint("`sqlrepctl list` shows them all; --agent watches one"));
        }
        let (sender, news) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for agent in 0..several {
            let (agents, sender) = (Arc::clone(agents), sender.clone());
            tasks.spawn(async move {
                let node = agents.roads[agent].node.clone();
                let mut pause = AGAIN;
                loop {
                    let mut heard = false;
                    let Err(failure) = follow(&agents, agent, &sender, &mut heard).await else {
                        return;
                    };
                    let refused = failure.exit == Exit::Refused;
                    pause = if heard {
                        AGAIN
                    } else {
                        (pause * 2).min(AGAIN_MAX)
                    };
                    let silent = News::Silent(failure);
                    if sender.send((node.clone(), silent)).await.is_err() || refused {
                        return;
                    }
                    sleep(pause).await;
                }
            });
        }
        Ok(Self {
            news,
            open: several,
            alone: several == 1,
            _tasks: tasks,
        })
    }

    /// The next news. The end of the only agent is the end of the watch, and so is the refusal of
    /// the last: an agent with nothing of the caller's refuses, and is not asked again.
    pub(crate) async fn next(&mut self) -> Result<(String, News)> {
        loop {
            match self.news.recv().await {
                Some((_, News::Silent(failure))) if self.alone => return Err(failure),
                Some((_, News::Silent(failure))) if failure.exit == Exit::Refused => {
                    self.open -= 1;
                    if self.open == 0 {
                        return Err(failure);
                    }
                }
                Some(news) => return Ok(news),
                None => return Err(Failure::unreachable("nothing is left to watch")),
            }
        }
    }
}

/// Follows one agent until it goes away; ends well when nobody listens any more.
async fn follow(
    agents: &Agents,
    agent: usize,
    sender: &mpsc::Sender<(String, News)>,
    heard: &mut bool,
) -> Result<()> {
    let client = agents.client(agent).await?;
    let mut watch = client.watch(agents.namespace()).await?;
    let node = &agents.roads[agent].node;
    while let Some(change) = watch.next().await? {
        *heard = true;
        let news = (node.clone(), News::Change(change));
        if sender.send(news).await.is_err() {
            return Ok(());
        }
    }
    Err(Failure::unreachable("the agent ended the watch").hint("it may be restarting; try again"))
}
