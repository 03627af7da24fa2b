//! `version`: of this program and of the agent.

use serde::Serialize;

use crate::agents::Agents;
use crate::app::{Context, converse};
use crate::args::FormatArgs;
use crate::client::Info;
use crate::failure::{Exit, Result};
use crate::options::{self, Reach};
use crate::output::{Cell, Table, duration};
use crate::when::rfc3339;

/// Versions for programs.
#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    /// The one that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    /// Those of a cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<Agent>,
}

/// The agent for programs.
#[derive(Debug, Serialize)]
struct Agent {
    version: String,
    sqlite_version: String,
    node: String,
    replica_root: String,
    databases: u32,
    started: Option<String>,
}

pub(super) fn run(args: FormatArgs, context: &mut Context) -> Result<Exit> {
    let reach = options::agents(&context.global, &context.environment)?;
    let asked = converse(async {
        let agents = Agents::find(context, &reach).await?;
        agents.infos(&mut context.output).await
    });
    // Our own version is known whatever the agents do; without any there is nothing else to say.
    let (infos, failure) = match asked {
        Ok(infos) => (infos, None),
        Err(failure) if failure.exit == Exit::Usage => (Vec::new(), None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let clock = context.clock.clone();
    let up = |info: &Info| info.started.map(|started| duration(clock.age(started)));
    let ups: Vec<String> = infos
        .iter()
        .map(|info| up(info).unwrap_or_default())
        .collect();
    let mut agents: Vec<Agent> = infos.into_iter().map(Agent::from).collect();
    let agent = match reach {
        Reach::One(_) => agents.pop(),
        Reach::Cluster(_) => None,
    };
    let client = env!("CARGO_PKG_VERSION");
    let versions = Versions {
        client,
        agent,
        agents,
    };
    context.output.data(args.format, &versions, || {
        let mut table = Table::new(&["", "VERSION", "NODE", "SQLITE", "UP"]);
        let row = |cells: [&str; 5]| cells.map(Cell::new).to_vec();
        table.push(row(["client", client, "", "", ""]));
        for (agent, up) in versions.agent.iter().chain(&versions.agents).zip(&ups) {
            let Agent {
                version,
                node,
                sqlite_version,
                ..
            } = agent;
            table.push(row(["agent", version, node, sqlite_version, up]));
        }
        table
    })?;
    failure.map_or(Ok(Exit::Done), Err)
}

impl From<Info> for Agent {
    fn from(info: Info) -> Self {
        Self {
            version: info.version,
            sqlite_version: info.sqlite_version,
            node: info.node,
            replica_root: info.replica_root,
            databases: info.databases,
            started: info.started.map(rfc3339),
        }
    }
}
