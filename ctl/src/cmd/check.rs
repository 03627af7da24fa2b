//! `check`: one line a check, a hint for each failure.

mod cluster;

use serde::Serialize;

use crate::agents::{Agents, Seat};
use crate::app::{Context, converse};
use crate::args::FormatArgs;
use crate::client::{Health, Info};
use crate::database::{Database, State};
use crate::failure::{Exit, Failure, Result};
use crate::options::{self, Reach};
use crate::output::{Cell, Color, Table, duration};
use crate::reference::Named as _;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Works, but somebody should look at it.
    Warning,
    Failed,
}

/// One check for programs.
#[derive(Debug, Serialize)]
struct Check {
    category: &'static str,
    #[serde(rename = "check")]
    name: String,
    ok: bool,
    result: Verdict,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

impl Check {
    fn new(category: &'static str, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            category,
            name: name.into(),
            ok: true,
            result: Verdict::Ok,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// It is not as it should be.
    fn failed(mut self, hint: impl Into<String>) -> Self {
        (self.ok, self.result, self.hint) = (false, Verdict::Failed, hint.into());
        self
    }

    /// It works, but should be looked at.
    fn warning(mut self, hint: impl Into<String>) -> Self {
        (self.result, self.hint) = (Verdict::Warning, hint.into());
        self
    }

    /// What cannot be found out has not been found right.
    fn unknown(category: &'static str, name: impl Into<String>, failure: &Failure) -> Self {
        let hint = failure.next_step().unwrap_or_default();
        Self::new(category, name, failure.to_string()).failed(hint)
    }
}

pub(super) fn run(args: FormatArgs, context: &mut Context) -> Result<Exit> {
    let reach = options::agents(&context.global, &context.environment)?;
    let (checks, exit) = converse(async {
        match &reach {
            Reach::Cluster(options) => {
                let checks = cluster::checks(options, context, &reach).await?;
                Ok((checks, None))
            }
            Reach::One(_) => Ok(of_one(context, &reach).await),
        }
    })?;
    let failed = checks.iter().any(|check| !check.ok);
    show(&checks, args, context)?;
    Ok(exit.unwrap_or(if failed { Exit::Failed } else { Exit::Done }))
}

/// What the agents say of themselves, and what they follow.
async fn ask(context: &mut Context, reach: &Reach) -> Result<(Vec<Info>, Vec<Seat>)> {
    let agents = Agents::find(context, reach).await?;
    let infos = agents.infos(&mut context.output).await?;
    let seats = agents.list(&mut context.output).await?;
    Ok((infos, seats))
}

/// The checks of one agent; one that cannot be asked decides the exit code.
async fn of_one(context: &mut Context, reach: &Reach) -> (Vec<Check>, Option<Exit>) {
    match ask(context, reach).await {
        Ok((infos, seats)) => {
            let mut checks: Vec<Check> = infos.into_iter().flat_map(of_agent).collect();
            checks.extend(seats.iter().map(|seat| of_database(&seat.database)));
            (checks, None)
        }
        Err(failure) => {
            let failure: Failure = failure;
            let check = Check::unknown("node-agent", "agent", &failure);
            (vec![check], Some(failure.exit))
        }
    }
}

fn show(checks: &[Check], args: FormatArgs, context: &mut Context) -> Result<()> {
    context.output.data(args.format, checks, || {
        let mut table = Table::new(&["CATEGORY", "CHECK", "RESULT", "FOUND"]);
        for check in checks {
            let (word, color) = match check.result {
                Verdict::Ok => ("ok", Color::Good),
                Verdict::Warning => ("warning", Color::Busy),
                Verdict::Failed => ("FAILED", Color::Bad),
            };
            table.push(vec![
                Cell::new(check.category),
                Cell::new(&check.name),
                Cell::new(word).colored(color),
                Cell::new(&check.message),
            ]);
        }
        table
    })?;
    for check in checks.iter().filter(|check| !check.hint.is_empty()) {
        context
            .output
            .note(&format!("{}: {}", check.name, check.hint));
    }
    Ok(())
}

/// What an agent says of itself.
fn of_agent(info: Info) -> Vec<Check> {
    let (client, node) = (env!("CARGO_PKG_VERSION"), info.node);
    let answers = format!("answers on node {node}, {} databases", info.databases);
    let versions = format!("agent {} on node {node}, sqlrepctl {client}", info.version);
    let version = Check::new("version", "version", versions);
    let same = info.version == client;
    let mut checks = vec![
        Check::new("node-agent", "agent", answers),
        if same {
            version
        } else {
            version.failed("use the sqlrepctl of the agents' version, or finish their rollout")
        },
    ];
    checks.extend(info.health.into_iter().map(|health| {
        let Health {
            name,
            ok,
            message,
            hint,
        } = health;
        let category = match name.as_str() {
            name if name.starts_with("replica-root") => "replica-root",
            "kubelet-root" => "kubelet-root",
            _ => "node-agent",
        };
        let check = Check::new(category, name, message);
        if ok { check } else { check.failed(hint) }
    }));
    checks
}

/// How a database fares.
fn of_database(database: &Database) -> Check {
    let said = format!("{}, lag {}", database.state_text(), duration(database.lag));
    let check = Check::new("replicas", database.name(), said);
    let or = |hint: &str| {
        if database.hint.is_empty() {
            hint.to_owned()
        } else {
            database.hint.clone()
        }
    };
    match database.state {
        State::Stalled | State::Fenced | State::Unsupported => {
            check.failed(or("`sqlrepctl list -o wide` shows the last error"))
        }
        State::Unknown => check.warning("this sqlrepctl is too old to know the state"),
        _ if database.lag > LAG => check.warning("is the share slow, or the network?"),
        _ => check,
    }
}

/// A lag past this is worth a look: the slowest interval that is the default, many times over.
const LAG: std::time::Duration = std::time::Duration::from_secs(30);
