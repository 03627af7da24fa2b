//! `history`: what a replica holds, and which of its states can be restored.

use serde::Serialize;

use super::{needed, txid_text};
use crate::agents::Agents;
use crate::app::{Context, converse};
use crate::args::HistoryArgs;
use crate::database::short;
use crate::failure::{Exit, Result};
use crate::history::{History, Point};
use crate::offline;
use crate::options::{self, Source};
use crate::output::{Cell, Color, Table, size};
use crate::reference::Named as _;
use crate::when::rfc3339;

/// A history for programs.
#[derive(Debug, Serialize)]
struct Document {
    database: String,
    branches: Vec<BranchRow>,
    points: Vec<Row>,
}

/// A branch for programs.
#[derive(Debug, Serialize)]
struct BranchRow {
    name: String,
    from_txid: Option<String>,
    head_txid: Option<String>,
}

/// A file for programs.
#[derive(Debug, Serialize)]
struct Row {
    branch: Option<String>,
    level: u8,
    min_txid: String,
    txid: String,
    time: String,
    bytes: u64,
    restorable: bool,
    /// What a restore of this state reads.
    cost_files: Option<usize>,
    cost_bytes: Option<u64>,
}

pub(super) fn run(args: &HistoryArgs, context: &mut Context) -> Result<Exit> {
    let source = options::source(&context.global, args.replica.as_ref(), &context.environment)?;
    let (name, history) = match source {
        Source::Replica(dir) => {
            let found = offline::find(&dir)?;
            let replica = offline::one(&dir, &found, args.reference.as_ref())?;
            (replica.name(), offline::history(replica)?)
        }
        Source::Agents(reach) => converse(async {
            let reference = needed(args.reference.as_ref())?;
            let agents = Agents::find(context, &reach).await?;
            let (client, id) = agents.replica(reference, &mut context.output).await?;
            Ok((id.name(), client.history(&id).await?))
        })?,
    };
    let points = history.points();
    let document = document(&name, &history, &points);
    context
        .output
        .data(args.format.format, &document, || table(&points))?;
    match history.reach() {
        Some((first, last)) => context.output.note(&format!(
            "{name} can be restored from TXID {} ({}) to TXID {} ({})",
            short(first.range.max()),
            rfc3339(first.time),
            short(last.range.max()),
            rfc3339(last.time),
        )),
        None => context
            .output
            .note(&format!("{name} holds nothing that can be restored")),
    }
    Ok(Exit::Done)
}

fn document(name: &str, history: &History, points: &[Point]) -> Document {
    let branches = history.branches.iter().map(|branch| BranchRow {
        name: branch.name.clone(),
        from_txid: branch.from.map(txid_text),
        head_txid: branch.head.map(txid_text),
    });
    let points = points.iter().map(|point| Row {
        branch: Some(point.file.branch.clone()).filter(|branch| !branch.is_empty()),
        level: point.file.level,
        min_txid: txid_text(point.file.range.min()),
        txid: txid_text(point.file.range.max()),
        time: rfc3339(point.file.time),
        bytes: point.file.bytes,
        restorable: point.restorable,
        cost_files: point.cost.map(|cost| cost.files),
        cost_bytes: point.cost.map(|cost| cost.bytes),
    });
    Document {
        database: name.to_owned(),
        branches: branches.collect(),
        points: points.collect(),
    }
}

fn table(points: &[Point]) -> Table {
    let mut table = Table::new(&[
        "TXID",
        "FROM",
        "LEVEL",
        "TIME",
        "SIZE",
        "RESTORABLE",
        "COST",
        "BRANCH",
    ]);
    for point in points {
        let file = &point.file;
        let restorable = if point.restorable {
            Cell::new("yes").colored(Color::Good)
        } else {
            Cell::new("no").colored(Color::Bad)
        };
        let cost = point.cost.map_or_else(String::new, |cost| {
            let files = if cost.files == 1 { "file" } else { "files" };
            format!("{} in {} {files}", size(cost.bytes), cost.files)
        });
        let level = if file.level == 9 {
            "snapshot".to_owned()
        } else {
            file.level.to_string()
        };
        table.push(vec![
            Cell::number(short(file.range.max())),
            Cell::number(short(file.range.min())),
            Cell::new(level),
            Cell::new(rfc3339(file.time)),
            Cell::number(size(file.bytes)),
            restorable,
            Cell::number(cost),
            Cell::new(&file.branch),
        ]);
    }
    table
}
