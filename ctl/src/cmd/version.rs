//! `version`: of this program and of the agent.

use serde::Serialize;

use crate::app::{Context, converse};
use crate::args::FormatArgs;
use crate::client::Info;
use crate::failure::{Exit, Result};
use crate::options;
use crate::output::{Cell, Table, duration};
use crate::when::rfc3339;

/// Versions for programs.
#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
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
    let endpoint = options::known_agent(&context.global, &context.environment)?;
    let asked =
        endpoint.map(|endpoint| converse(async { context.connect(&endpoint).await?.info().await }));
    // Our own version is known whatever the agent does.
    let (info, failure) = match asked {
        None => (None, None),
        Some(Ok(info)) => (Some(info), None),
        Some(Err(failure)) => (None, Some(failure)),
    };
    let client = env!("CARGO_PKG_VERSION");
    let up = info.as_ref().and_then(|info| info.started);
    let up = up
        .map(|started| duration(context.clock.age(started)))
        .unwrap_or_default();
    let versions = Versions {
        client,
        agent: info.map(Agent::from),
    };
    context.output.data(args.format, &versions, || {
        let mut table = Table::new(&["", "VERSION", "NODE", "SQLITE", "UP"]);
        let name = Cell::new;
        table.push(vec![
            name("client"),
            name(client),
            name(""),
            name(""),
            name(""),
        ]);
        if let Some(agent) = &versions.agent {
            table.push(vec![
                name("agent"),
                name(&agent.version),
                name(&agent.node),
                name(&agent.sqlite_version),
                name(&up),
            ]);
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
