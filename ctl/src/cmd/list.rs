//! `list`: databases and how far their replicas are.

use serde::Serialize;

use crate::agents::{Agents, Seat};
use crate::app::{Context, converse};
use crate::args::{Format, ListArgs};
use crate::client::QuickCheck;
use crate::database::{Database, Replica, State, short};
use crate::failure::{Exit, Result};
use crate::offline;
use crate::options::{self, Source};
use crate::output::{Cell, Color, Table, duration, size};
use crate::reference::Named as _;
use crate::when::{Clock, rfc3339};

use super::{pick, txid_text};

/// How much of a state and its reason a row shows: the longest that has no hint, which goes below the
/// table, has some 80 characters.
const STATE_CHARS_MAX: usize = 100;

/// Rows that a terminal shows at once, or nearly so.
const ROWS_SEEN: usize = 40;

pub(super) fn run(args: &ListArgs, context: &mut Context) -> Result<Exit> {
    match options::source(&context.global, args.replica.as_ref(), &context.environment)? {
        Source::Replica(dir) => {
            let found = offline::find(&dir)?;
            let picked = pick(&found, args.reference.as_slice(), args.reference.is_none())?;
            let replicas: Vec<Replica> = picked.into_iter().map(offline::summary).collect();
            show_replicas(&replicas, args.format.format, context)
        }
        Source::Agents(reach) if args.replicas => {
            let replicas = converse(async {
                let agents = Agents::find(context, &reach).await?;
                agents.replicas(&mut context.output).await
            })?;
            let mut replicas = match &args.reference {
                Some(reference) => reference.several(&replicas)?.into_iter().cloned().collect(),
                None => replicas,
            };
            replicas.sort_by_key(|replica| replica.name.clone());
            show_replicas(&replicas, args.format.format, context)
        }
        Source::Agents(reach) => {
            let (seats, missing) = converse(async {
                let agents = Agents::find(context, &reach).await?;
                let seats = agents.list(&mut context.output).await?;
                Ok((seats, agents.missing()))
            })?;
            let seats = match &args.reference {
                Some(reference) => reference.several(&seats)?.into_iter().cloned().collect(),
                None => seats,
            };
            let mut databases: Vec<Database> =
                seats.into_iter().map(|seat: Seat| seat.database).collect();
            databases.sort_by(|one, two| (&one.id, &one.pod).cmp(&(&two.id, &two.pod)));
            let shown = show(&databases, args.format.format, context);
            // Once more where it is seen: a long table hides what was said before it.
            if let Some(missing) = missing.filter(|_| databases.len() > ROWS_SEEN) {
                context.output.note(&missing);
            }
            shown
        }
    }
}

fn show(databases: &[Database], format: Format, context: &mut Context) -> Result<Exit> {
    let rows: Vec<Row<'_>> = databases.iter().map(Row::new).collect();
    if databases.is_empty() && matches!(format, Format::Table | Format::Wide) {
        context
            .output
            .note("no databases; a pod opts in with the label sqlrep.io/replicate");
        return Ok(Exit::Done);
    }
    let clock = context.clock.clone();
    context
        .output
        .data(format, &rows, || table(databases, format, &clock))?;
    for database in databases
        .iter()
        .filter(|database| !database.hint.is_empty())
    {
        let (name, state) = (database.name(), database.state_text());
        context
            .output
            .note(&format!("{name} is {state}: {}", database.hint));
    }
    Ok(Exit::Done)
}

/// The table of `list` and `watch`.
pub(super) fn table(databases: &[Database], format: Format, clock: &Clock) -> Table {
    let wide = format == Format::Wide;
    let mut headings = vec![
        "NODE",
        "NAMESPACE",
        "APP",
        "PATH",
        "STATE",
        "SIZE",
        "TXID",
        "LAG",
    ];
    if wide {
        headings.extend([
            "POD",
            "WAL",
            "SHIPPED",
            "PENDING",
            "SHIPPED-AGO",
            "VERIFIED-AGO",
            "QUICK-CHECK",
        ]);
    }
    headings.push("LAST ERROR");
    let mut table = Table::new(&headings);
    for database in databases {
        table.push(row(database, wide, clock));
    }
    table
}

fn row(database: &Database, wide: bool, clock: &Clock) -> Vec<Cell> {
    let id = &database.id;
    let color = match database.state {
        State::Following => Color::Good,
        State::Stalled | State::Fenced | State::Unsupported | State::Unknown => Color::Bad,
        _ => Color::Busy,
    };
    let ago = |time| duration(clock.age(time));
    let state = if wide {
        database.state_text()
    } else {
        beginning(database.state_text())
    };
    let mut cells = vec![
        Cell::new(&database.node),
        Cell::new(&id.namespace),
        Cell::new(&id.app),
        Cell::new(format!("{}/{}", id.volume, id.path)),
        Cell::new(state).colored(color),
        Cell::number(size(database.size_bytes)),
        Cell::number(database.txid.map(short).unwrap_or_default()),
        Cell::number(duration(database.lag)),
    ];
    if wide {
        cells.extend([
            Cell::new(&database.pod),
            Cell::number(size(database.wal_bytes)),
            Cell::number(database.shipped.map(short).unwrap_or_default()),
            Cell::number(size(database.pending_bytes)),
            Cell::number(database.shipped_at.map(ago).unwrap_or_default()),
            Cell::number(database.verified_at.map(ago).unwrap_or_default()),
            Cell::new(database.check.as_ref().map_or("", QuickCheck::word)),
        ]);
    }
    let error = match database.last_error_at {
        Some(time) if !database.last_error.is_empty() => {
            format!("{} ({} ago)", database.last_error, ago(time))
        }
        _ => database.last_error.clone(),
    };
    cells.push(Cell::new(error));
    cells
}

/// A reason may be a paragraph, which `list` says below the table anyway.
fn beginning(text: String) -> String {
    match text.char_indices().nth(STATE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A database for programs.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    namespace: &'a str,
    app: &'a str,
    volume: &'a str,
    path: &'a str,
    node: &'a str,
    pod: &'a str,
    pod_uid: &'a str,
    state: State,
    state_since: Option<String>,
    reason: Option<&'a str>,
    hint: Option<&'a str>,
    size_bytes: u64,
    wal_bytes: u64,
    txid: Option<String>,
    shipped_txid: Option<String>,
    lag_seconds: f64,
    pending_bytes: u64,
    last_error: Option<&'a str>,
    last_error_at: Option<String>,
    captured_at: Option<String>,
    shipped_at: Option<String>,
    snapshot_at: Option<String>,
    verified_at: Option<String>,
    quick_checked_at: Option<String>,
    #[serde(flatten)]
    check: Option<&'a QuickCheck>,
}

impl<'a> Row<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        let text = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            namespace: &database.id.namespace,
            app: &database.id.app,
            volume: &database.id.volume,
            path: &database.id.path,
            node: &database.node,
            pod: &database.pod,
            pod_uid: &database.pod_uid,
            state: database.state,
            state_since: database.since.map(rfc3339),
            reason: text(&database.reason),
            hint: text(&database.hint),
            size_bytes: database.size_bytes,
            wal_bytes: database.wal_bytes,
            txid: database.txid.map(txid_text),
            shipped_txid: database.shipped.map(txid_text),
            lag_seconds: database.lag.as_secs_f64(),
            pending_bytes: database.pending_bytes,
            last_error: text(&database.last_error),
            last_error_at: database.last_error_at.map(rfc3339),
            captured_at: database.captured_at.map(rfc3339),
            shipped_at: database.shipped_at.map(rfc3339),
            snapshot_at: database.snapshot_at.map(rfc3339),
            verified_at: database.verified_at.map(rfc3339),
            quick_checked_at: database.checked_at.map(rfc3339),
            check: database.check.as_ref(),
        }
    }
}

/// A replica for programs.
#[derive(Debug, Serialize)]
struct ReplicaRow<'a> {
    replica: &'a str,
    owner_pod: Option<&'a str>,
    owner_node: Option<&'a str>,
    released: bool,
    txid: Option<String>,
    time: Option<String>,
    files: u64,
    bytes: u64,
    problem: Option<&'a str>,
}

fn show_replicas(replicas: &[Replica], format: Format, context: &mut Context) -> Result<Exit> {
    if replicas.is_empty() && matches!(format, Format::Table | Format::Wide) {
        context.output.note("no replica is without a pod");
        return Ok(Exit::Done);
    }
    let rows: Vec<ReplicaRow<'_>> = replicas.iter().map(ReplicaRow::new).collect();
    context.output.data(format, &rows, || {
        let mut table = Table::new(&[
            "REPLICA", "TXID", "TIME", "FILES", "SIZE", "OWNER", "PROBLEM",
        ]);
        for replica in replicas {
            let owner = match (replica.owner_pod.as_str(), replica.released) {
                ("", _) => String::new(),
                (pod, true) => format!("{pod} (released)"),
                (pod, false) => pod.to_owned(),
            };
            let problem = Cell::new(&replica.problem);
            table.push(vec![
                Cell::new(&replica.name),
                Cell::number(replica.txid.map(short).unwrap_or_default()),
                Cell::new(replica.time.map(rfc3339).unwrap_or_default()),
                Cell::number(replica.files.to_string()),
                Cell::number(size(replica.bytes)),
                Cell::new(owner),
                if replica.problem.is_empty() {
                    problem
                } else {
                    problem.colored(Color::Bad)
                },
            ]);
        }
        table
    })?;
    Ok(Exit::Done)
}

impl<'a> ReplicaRow<'a> {
    fn new(replica: &'a Replica) -> Self {
        let text = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            replica: &replica.name,
            owner_pod: text(&replica.owner_pod),
            owner_node: text(&replica.owner_node),
            released: replica.released,
            txid: replica.txid.map(txid_text),
            time: replica.time.map(rfc3339),
            files: replica.files,
            bytes: replica.bytes,
            problem: text(&replica.problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_does_not_make_a_row() {
        assert_eq!(beginning("stalled (it hangs)".into()), "stalled (it hangs)");
        let long = beginning("ä".repeat(STATE_CHARS_MAX + 1));
        assert_eq!(long, format!("{}…", "ä".repeat(STATE_CHARS_MAX)));
    }
}
