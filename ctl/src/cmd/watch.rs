//! `watch`: a table that follows the databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::list::{Row, table};
use crate::agents::{Agents, News, Watches};
use crate::app::Context;
use crate::args::{Format, WatchArgs};
use crate::client::Change;
use crate::database::Database;
use crate::failure::{Exit, Failure, Result};
use crate::options;
use crate::output::Output;
use crate::reference::{Named as _, Reference};
use crate::when::Clock;

/// Redraws are gathered: nobody reads faster, and a slow line must not be flooded.
const REDRAW: Duration = Duration::from_millis(250);

/// A change for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Changed { database: Box<Row<'a>> },
    Gone { database: String },
}

pub(super) fn run(args: &WatchArgs, context: &mut Context) -> Result<Exit> {
    let reach = options::agents(&context.global, &context.environment)?;
    let conversation = async {
        let agents = Agents::find(context, &reach).await?;
        let watch = Watches::begin(&Arc::new(agents))?;
        let mut view = View {
            databases: BTreeMap::new(),
            reference: args.reference.as_ref(),
            format: args.format.format,
            silent: BTreeMap::new(),
            caught_up: false,
        };
        view.follow(watch, &mut context.output).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("cannot start").caused_by(error))?;
    runtime.block_on(async {
        tokio::select! {
            ended = conversation => ended.map(|()| Exit::Done),
            // To stop watching is no failure.
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        }
    })
}

/// What is shown.
struct View<'a> {
    databases: BTreeMap<(String, String, String), Database>,
    reference: Option<&'a Reference>,
    format: Format,
    /// Nodes that do not answer, and why.
    silent: BTreeMap<String, String>,
    caught_up: bool,
}

impl View<'_> {
    /// Follows the changes until the agent goes away.
    async fn follow(&mut self, mut watch: Watches, output: &mut Output) -> Result<()> {
        let live = output.is_screen() && matches!(self.format, Format::Table | Format::Wide);
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut drawn: Option<Instant> = None;
        loop {
            tokio::select! {
                news = watch.next() => {
                    let (node, news) = news?;
                    self.hear(&node, news, live, output)?;
                }
                // Ages grow although nothing changes.
                _ = redraw.tick(), if live && self.caught_up => {
                    if drawn.is_none() {
                        output.raw(b"\x1b[2J")?;
                    }
                    drawn = Some(Instant::now());
                    let databases: Vec<Database> = self.databases.values().cloned().collect();
                    let shown = table(&databases, self.format, &Clock::system());
                    output.redraw(&self.title(), &shown)?;
                }
            }
        }
    }

    /// Takes news in; a node that does not answer is said once.
    fn hear(&mut self, node: &str, news: News, live: bool, output: &mut Output) -> Result<()> {
        match news {
            News::Change(change) => {
                self.silent.remove(node);
                self.take(node, change, live, output)
            }
            News::Silent(failure) => {
                // What it tells next is all that it knows.
                self.databases.retain(|(_, at, _), _| at != node);
                let why = failure.to_string();
                if self.silent.insert(node.to_owned(), why.clone()).is_none() && !live {
                    output.note(&format!("node {node}: {why}"));
                }
                self.caught_up = true;
                Ok(())
            }
        }
    }

    /// What stands above the table.
    fn title(&self) -> String {
        let mut silent = self
            .silent
            .iter()
            .map(|(node, why)| format!("node {node}: {why}"));
        match silent.next() {
            None => "Ctrl-C ends".to_owned(),
            Some(first) => match silent.count() {
                0 => format!("{first} · Ctrl-C ends"),
                more => format!("{first}, and {more} more · Ctrl-C ends"),
            },
        }
    }

    fn take(&mut self, node: &str, change: Change, live: bool, output: &mut Output) -> Result<()> {
        match change {
            Change::CaughtUp => self.caught_up = true,
            Change::Changed(database) => {
                let wanted = self
                    .reference
                    .is_none_or(|reference| reference.is_part_of(&*database));
                if wanted {
                    if !live {
                        self.tell(&database, output)?;
                    }
                    let key = (database.name(), node.to_owned(), database.pod_uid.clone());
                    self.databases.insert(key, *database);
                }
            }
            Change::Gone(id) => {
                let before = self.databases.len();
                self.databases
                    .retain(|(name, at, _), _| *name != id.name() || at != node);
                if before != self.databases.len() && !live {
                    let event = Event::Gone {
                        database: id.name(),
                    };
                    match self.format {
                        Format::Table | Format::Wide => {
                            output.raw(format!("{} gone\n", id.name()).as_bytes())?;
                        }
                        Format::Json | Format::Yaml => output.item(self.format, &event)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// A line for each change, where nothing can be redrawn.
    fn tell(&self, database: &Database, output: &mut Output) -> Result<()> {
        match self.format {
            Format::Table | Format::Wide => {
                let txid = database
                    .txid
                    .map(crate::database::short)
                    .unwrap_or_default();
                let lag = crate::output::duration(database.lag);
                let (name, state) = (database.name(), database.state_text());
                let line = format!("{name} {state} txid={txid} lag={lag}\n");
                output.raw(crate::output::clean(&line).as_bytes())
            }
            Format::Json | Format::Yaml => output.item(
                self.format,
                &Event::Changed {
                    database: Box::new(Row::new(database)),
                },
            ),
        }
    }
}
