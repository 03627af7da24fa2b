//! `verify`: read a replica back, through an agent or without one.

use std::path::Path;

use serde::Serialize;

use super::{Outcomes, carry_out, conclude, pick, txid_text};
use crate::agents::{Agents, Job};
use crate::app::{Context, converse};
use crate::args::VerifyArgs;
use crate::client::{Client, QuickCheck, Step, Verified};
use crate::database::{Id, Wanted};
use crate::failure::{Exit, Failure, Result};
use crate::offline;
use crate::options::{self, Reach, Source};
use crate::output::{Cell, Color, Output, size};
use crate::reference::Named as _;

/// What was proven.
#[derive(Debug, Serialize)]
struct Proven {
    txid: String,
    files: u64,
    pages: u64,
    bytes: u64,
    checksum: String,
    #[serde(flatten)]
    check: QuickCheck,
}

impl From<Verified> for Proven {
    fn from(verified: Verified) -> Self {
        Self {
            txid: txid_text(verified.txid),
            files: verified.files,
            pages: verified.pages,
            bytes: verified.bytes,
            checksum: format!("{:016x}", verified.checksum),
            check: verified.check,
        }
    }
}

pub(super) fn run(args: &VerifyArgs, context: &mut Context) -> Result<Exit> {
    let wanted = options::wanted(&args.point, &context.clock)?;
    let source = options::source(&context.global, args.replica.as_ref(), &context.environment)?;
    let mut outcomes = match source {
        Source::Replica(dir) => from_directory(&dir, args, wanted, context)?,
        Source::Agents(reach) => from_agents(&reach, args, wanted, context)?,
    };
    let headings = [
        "DATABASE",
        "TXID",
        "FILES",
        "PAGES",
        "READ",
        "CHECKSUM",
        "QUICK-CHECK",
    ];
    let exit = conclude(
        &mut outcomes,
        args.format,
        &mut context.output,
        &headings,
        |proven| {
            vec![
                Cell::number(proven.txid.trim_start_matches('0')),
                Cell::number(proven.files.to_string()),
                Cell::number(proven.pages.to_string()),
                Cell::number(size(proven.bytes)),
                Cell::new(&proven.checksum),
                Cell::new(proven.check.word()).colored(match proven.check {
                    QuickCheck::Ok => Color::Good,
                    QuickCheck::Damaged(_) => Color::Bad,
                    QuickCheck::NotChecked(_) => Color::Busy,
                }),
            ]
        },
    )?;
    let damaged = outcomes.results().fold(false, |damaged, (name, proven)| {
        say(name, proven, &mut context.output) || damaged
    });
    Ok(if damaged && exit == Exit::Done {
        Exit::Failed
    } else {
        exit
    })
}

/// Says what SQLite found, and what to do; whether the database is damaged.
fn say(name: &str, proven: &Proven, output: &mut Output) -> bool {
    match &proven.check {
        QuickCheck::Ok => false,
        QuickCheck::Damaged(lines) => {
            output.note(&format!(
                "sqlrepctl: {name}: the app's database itself is damaged; its replica is whole, and \
                 holds it as the app wrote it. SQLite says:"
            ));
            for line in lines {
                output.note(&format!("  {line}"));
            }
            output.note(
                "  hint: find the newest sound state with `sqlrepctl history` and `sqlrepctl verify \
                 --txid`, and put it back with `sqlrepctl restore --in-place`; or save what can be \
                 read of the newest one with `sqlite3 FILE .recover`",
            );
            true
        }
        QuickCheck::NotChecked(lines) => {
            let why = lines.join("; ");
            output.note(&format!(
                "{name}: whole, but not looked at by SQLite: {why}"
            ));
            false
        }
    }
}

fn from_directory(
    dir: &Path,
    args: &VerifyArgs,
    wanted: Wanted,
    context: &mut Context,
) -> Result<Outcomes<Proven>> {
    let found = offline::find(dir)?;
    let one = found.len() == 1 && args.references.is_empty();
    if !args.all && !one && args.references.is_empty() {
        return Err(
            Failure::usage(format!("{} holds {} replicas", dir.display(), found.len()))
                .hint("name those to verify, or all of them with --all"),
        );
    }
    let mut outcomes = Outcomes::new();
    for replica in pick(&found, &args.references, args.all || one)? {
        let bar = context.output.bar(&replica.name());
        let verified = offline::verify(replica, wanted, args.point.branch.as_deref(), &bar);
        drop(bar);
        match verified {
            Ok(verified) => outcomes.done(replica.name(), verified.into()),
            Err(failure) => outcomes.failed(replica.name(), &failure, &mut context.output),
        }
    }
    Ok(outcomes)
}

/// The job.
struct ReadBack<'a> {
    wanted: Wanted,
    branch: Option<&'a str>,
}

impl Job for ReadBack<'_> {
    type Done = Verified;

    async fn run(
        &self,
        client: &Client,
        ids: &[Id],
        on: impl FnMut(&Id, Step<Verified>) -> Result<()>,
    ) -> Result<()> {
        client.verify(ids, self.wanted, self.branch, on).await
    }
}

fn from_agents(
    reach: &Reach,
    args: &VerifyArgs,
    wanted: Wanted,
    context: &mut Context,
) -> Result<Outcomes<Proven>> {
    if args.references.is_empty() && !args.all {
        return Err(Failure::usage("no database named")
            .hint("name those to verify, or all of them with --all"));
    }
    let job = ReadBack {
        wanted,
        branch: args.point.branch.as_deref(),
    };
    let mut outcomes = Outcomes::new();
    converse(async {
        let agents = Agents::find(context, reach).await?;
        let output = &mut context.output;
        let (references, all) = (&args.references, args.all);
        // A name that no live database has may be that of a replica.
        let groups = match agents.several(references, all, output).await {
            Err(failure) if failure.exit == Exit::NotFound => {
                let replicas = agents.several_replicas(references, all, output).await;
                replicas.map_err(|_| failure)?
            }
            groups => groups?,
        };
        let shown = (output, "verifying");
        carry_out((&agents, &job), &groups, shown, &mut outcomes, Proven::from).await
    })?;
    Ok(outcomes)
}
