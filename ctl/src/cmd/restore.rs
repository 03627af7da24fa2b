//! `restore`: write a database, as it was at some point, to a file.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::{needed, txid_text};
use crate::agents::{Agents, Meant};
use crate::app::{Context, converse};
use crate::args::{Format, RestoreArgs};
use crate::database::{Wanted, short};
use crate::failure::{Exit, Failure, Result};
use crate::landing::{Existing, Landing, not_given, own};
use crate::offline;
use crate::options::{self, Reach, Source};
use crate::output::{Cell, Table, size};
use crate::reference::Named as _;
use crate::when::rfc3339;

/// A restore that is done, for programs.
#[derive(Debug, Serialize)]
struct Restored {
    database: String,
    file: String,
    txid: String,
    time: Option<String>,
    bytes: u64,
    page_size: u32,
    warnings: Vec<String>,
}

pub(super) fn run(args: &RestoreArgs, context: &mut Context) -> Result<Exit> {
    let wanted = options::wanted(&args.point, &context.clock)?;
    if args.in_place {
        return in_place(args, wanted, context);
    }
    let source = options::source(&context.global, args.replica.as_ref(), &context.environment)?;
    let existing = if args.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let output = args
        .output
        .as_deref()
        .ok_or_else(|| Failure::usage("no output file named"))?;
    let restored = match source {
        Source::Replica(dir) => from_directory(&dir, output, existing, wanted, args, context)?,
        Source::Agents(reach) => from_agent(&reach, output, existing, wanted, args, context)?,
    };
    for warning in &restored.warnings {
        context.output.note(&format!("warning: {warning}"));
    }
    let at = restored
        .time
        .as_ref()
        .map(|time| format!(", captured {time}"))
        .unwrap_or_default();
    context.output.note(&format!(
        "restored {} to {}: TXID {}{at}, {}",
        restored.database,
        restored.file,
        restored.txid.trim_start_matches('0'),
        size(restored.bytes),
    ));
    match args.format {
        Format::Table | Format::Wide => {}
        Format::Json | Format::Yaml => context.output.data(args.format, &restored, || {
            let mut table = Table::new(&["DATABASE"]);
            table.push(vec![Cell::new(&restored.database)]);
            table
        })?,
    }
    Ok(Exit::Done)
}

/// Needs nothing but the directory (L11).
fn from_directory(
    dir: &Path,
    output: &Path,
    existing: Existing,
    wanted: Wanted,
    args: &RestoreArgs,
    context: &mut Context,
) -> Result<Restored> {
    let found = offline::find(dir)?;
    let replica = offline::one(dir, &found, args.reference.as_ref())?;
    let landing = Landing::prepare(output, existing)?;
    let bar = context.output.bar("restoring");
    let done = offline::restore(
        replica,
        wanted,
        args.point.branch.as_deref(),
        &landing,
        &bar,
    )?;
    drop(bar);
    Ok(Restored {
        database: replica.name(),
        file: landing.path().display().to_string(),
        txid: txid_text(done.txid),
        time: Some(rfc3339(done.time)),
        bytes: done.bytes,
        page_size: done.page_size,
        warnings: done.warnings,
    })
}

fn from_agent(
    reach: &Reach,
    output: &Path,
    existing: Existing,
    wanted: Wanted,
    args: &RestoreArgs,
    context: &mut Context,
) -> Result<Restored> {
    // The cheap refusals come before the agent is troubled.
    let reference = needed(args.reference.as_ref())?;
    let landing = Landing::prepare(output, existing)?;
    let bar = context.output.bar("restoring");
    let (name, header, given) = converse(async {
        let agents = Agents::find(context, reach).await?;
        let (client, id) = agents.replica(reference, &mut context.output).await?;
        let download = client
            .restore(&id, wanted, args.point.branch.as_deref())
            .await?;
        room_for(&landing, download.header().bytes)?;
        let temp = landing.temp()?;
        let mut file = temp.file();
        let header = download
            .write_to(&mut file, |done, total| bar.at(done, total))
            .await?;
        file.flush()
            .map_err(|error| Failure::failed("cannot write the restored file").caused_by(error))?;
        let given = header
            .ownership
            .map(|to| own(temp.file(), to))
            .transpose()?;
        landing.land(temp)?;
        Ok((id.name(), header, given))
    })?;
    drop(bar);
    let mut warnings = header.warnings;
    if let (Some(false), Some(to)) = (given, header.ownership) {
        warnings.push(not_given(to.uid, to.gid));
    }
    Ok(Restored {
        database: name,
        file: landing.path().display().to_string(),
        txid: txid_text(header.txid),
        time: header.time.map(rfc3339),
        bytes: header.bytes,
        page_size: header.page_size.get(),
        warnings,
    })
}

/// A disk that is too small is said before the first byte, not after the last.
fn room_for(landing: &Landing, bytes: u64) -> Result<()> {
    // Where it cannot be asked, writing will tell.
    let Ok(stat) = rustix::fs::fstatvfs(landing.dir()) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < bytes {
        return Err(Failure::failed(format!(
            "{} has {} left, the database needs {}",
            landing.dir().path().display(),
            size(free),
            size(bytes)
        )));
    }
    Ok(())
}

fn in_place(args: &RestoreArgs, wanted: Wanted, context: &mut Context) -> Result<Exit> {
    let reference = needed(args.reference.as_ref())?;
    if wanted == Wanted::Latest && args.point.branch.is_none() {
        return Err(Failure::usage("--in-place needs the state that is wanted")
            .hint("name it with --timestamp, --txid or --branch"));
    }
    if !args.yes && !context.output.can_ask() {
        return Err(Failure::usage(
            "--in-place writes over a live database, and there is no terminal to ask at",
        )
        .hint("say --yes"));
    }
    let reach = options::agents(&context.global, &context.environment)?;
    let bar = context.output.bar("rewinding");
    let outcome = converse(async {
        let agents = Agents::find(context, &reach).await?;
        let found = agents.live(reference, Meant::Followed, &mut context.output);
        let (client, id) = found.await?;
        let question = format!(
            "Write {} over the live database {}?",
            named(args, wanted),
            id.name()
        );
        if !args.yes && !context.output.ask(&question)? {
            return Ok(None);
        }
        let branch = args.point.branch.as_deref();
        let done = client
            .restore_in_place(&id, wanted, branch, |done, total| bar.at(done, total))
            .await?;
        Ok(Some((id, done)))
    })?;
    drop(bar);
    let Some((id, done)) = outcome else {
        return Err(Failure::refused("nothing was done, as you said"));
    };
    let (name, before) = (id.name(), short(done.before));
    context.output.note(&format!(
        "{name} has the content of TXID {} again, since TXID {}; to undo it:\n  \
         sqlrepctl restore {name} --in-place --txid {before}",
        short(done.from),
        short(done.txid)
    ));
    Ok(Exit::Done)
}

/// The wanted state in words.
fn named(args: &RestoreArgs, wanted: Wanted) -> String {
    let state = match wanted {
        Wanted::Latest => "the latest state".to_owned(),
        Wanted::Txid(txid) => format!("the state of TXID {}", short(txid)),
        Wanted::Before(time) => format!("the last state before {}", rfc3339(time)),
    };
    match &args.point.branch {
        Some(branch) => format!("{state} of branch {branch}"),
        None => state,
    }
}
