//! The flow's words → the contract's words, and back where requests need it.

use std::time::{Duration, Instant, SystemTime};

use sqlrep_pipeline::{
    BranchSummary, DatabaseStatus, DbId, FileSummary, Point, Proof, QuickCheck, ReplicaSummary,
    RestoreInfo, RootHealth, State, Timestamp, Txid,
};
use sqlrep_proto::v1;
use tonic::Status;

use super::status::bounded;

/// More databases are not on a node.
const REFERENCES_MAX: usize = 4096;

/// An identity in its four parts.
pub(super) fn id(id: &DbId) -> v1::DatabaseId {
    v1::DatabaseId {
        namespace: id.namespace().to_owned(),
        app: id.app().to_owned(),
        volume: id.volume().to_owned(),
        path: id.encoded_path(),
    }
}

/// The identity that a request names.
pub(super) fn named(id: Option<v1::DatabaseId>) -> Result<DbId, Status> {
    let id = id.ok_or_else(|| Status::invalid_argument("the request names no database"))?;
    let parts = [&id.namespace, &id.app, &id.volume];
    if let Some(part) = parts
        .iter()
        .find(|part| part.is_empty() || part.contains('/'))
    {
        return Err(Status::invalid_argument(bounded(format!(
            "{part:?} is no part of a database's name"
        ))));
    }
    let text = format!("{}/{}/{}/{}", id.namespace, id.app, id.volume, id.path);
    text.parse()
        .map_err(|error| Status::invalid_argument(bounded(format!("database {text:?}: {error}"))))
}

/// The identities that a request names: at least one.
pub(super) fn all_named(ids: Vec<v1::DatabaseId>) -> Result<Vec<DbId>, Status> {
    if ids.is_empty() {
        return Err(Status::invalid_argument("the request names no database"));
    }
    if ids.len() > REFERENCES_MAX {
        return Err(Status::invalid_argument(format!(
            "the request names {} databases, at most {REFERENCES_MAX} are taken",
            ids.len()
        )));
    }
    ids.into_iter().map(|id| named(Some(id))).collect()
}

/// The state that a request wants.
pub(super) fn point(point: Option<v1::Point>) -> Result<Point, Status> {
    match point.and_then(|point| point.at) {
        None => Ok(Point::Latest),
        Some(v1::point::At::Txid(txid)) => Txid::new(txid)
            .map(Point::Txid)
            .ok_or_else(|| Status::invalid_argument("TXIDs begin at 1")),
        Some(v1::point::At::Before(time)) => {
            let millis = i64::from(time.nanos).div_euclid(1_000_000);
            let millis = time
                .seconds
                .checked_mul(1000)
                .and_then(|from| from.checked_add(millis));
            millis
                .map(|millis| Point::Before(Timestamp::from_millis(millis)))
                .ok_or_else(|| Status::invalid_argument("the time is out of range"))
        }
    }
}

/// The branch that a request wants.
pub(super) fn branch(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

/// A time on the wall clock.
pub(super) fn time(at: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(at)
}

/// A time out of an LTX header.
pub(super) fn captured(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.millis().rem_euclid(1000) * 1_000_000;
    prost_types::Timestamp {
        seconds: at.millis().div_euclid(1000),
        nanos: i32::try_from(nanos).expect("less than a second"),
    }
}

/// Facts about the agent that every row shows.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) node: &'a str,
    pub(super) root: &'a RootHealth,
    pub(super) now: Instant,
}

/// One row of the list; `note` is what is wrong with its pod's annotations.
pub(super) fn database(
    row: DatabaseStatus,
    note: Option<String>,
    around: &Around<'_>,
) -> v1::Database {
    let (state, reason, hint) = standing(&row, note, around.root);
    let lag = row.lag(around.now);
    // What stops commits comes first; then what is wrong with what is on the replica.
    let replica = row.replica;
    let last_error = row.last_error.or(replica.damage.clone());
    let last_error = last_error.or_else(|| replica.database_damage());
    let last_error = last_error.or(replica.error);
    let checked = replica.quick_check;
    v1::Database {
        id: Some(id(&row.id)),
        node: around.node.to_owned(),
        pod: row.pod,
        pod_uid: row.pod_uid,
        state: self::state(state).into(),
        state_since: None,
        reason,
        hint,
        size_bytes: row.size_bytes,
        wal_bytes: row.wal_bytes,
        txid: row.txid.map(Txid::get),
        shipped_txid: row.shipped.map(Txid::get),
        lag: Some(duration(lag)),
        pending_bytes: row.pending_bytes,
        last_error: last_error.unwrap_or_default(),
        last_error_at: None,
        captured_at: None,
        shipped_at: row.shipped_at.map(time),
        snapshot_at: replica.snapshot_at.map(time),
        verified_at: replica.verified.map(|(at, _)| time(at)),
        quick_checked_at: checked.as_ref().map(|(at, _, _)| time(*at)),
        quick_check: match (replica.not_checked, checked) {
            (Some(reason), _) => Some(quick_check(QuickCheck::NotChecked(reason))),
            (None, checked) => checked.map(|(_, _, check)| quick_check(check)),
        },
    }
}

/// State, reason and hint as a person should see them: a root that cannot be used stalls every
/// replica on it, also those that have nothing to ship at the moment.
fn standing(
    row: &DatabaseStatus,
    note: Option<String>,
    root: &RootHealth,
) -> (State, String, String) {
    let flows = match row.state {
        State::Found | State::Restoring | State::Snapshotting | State::Following => true,
        State::Draining | State::Gone | State::Stalled | State::Fenced | State::Unsupported => {
            false
        }
    };
    let (mut reason, mut hint) = (
        row.reason.clone().unwrap_or_default(),
        row.hint.clone().unwrap_or_default(),
    );
    match &root.problem {
        Some(problem) if flows && !row.in_volume => {
            let advice = "mount the share, or point --replica-root at the right directory";
            (State::Stalled, problem.clone(), advice.to_owned())
        }
        _ => {
            if let Some(note) = note {
                let joint = if reason.is_empty() { "" } else { "; " };
                reason = format!("{reason}{joint}{note}");
                if hint.is_empty() {
                    "correct the annotation on the pod template".clone_into(&mut hint);
                }
            }
            (row.state, reason, hint)
        }
    }
}

fn state(state: State) -> v1::State {
    match state {
        State::Found => v1::State::Found,
        State::Restoring => v1::State::Restoring,
        State::Snapshotting => v1::State::Snapshotting,
        State::Following => v1::State::Following,
        State::Draining => v1::State::Draining,
        State::Gone => v1::State::Gone,
        State::Stalled => v1::State::Stalled,
        State::Fenced => v1::State::Fenced,
        State::Unsupported => v1::State::Unsupported,
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    // A lag past 292 billion years is shown as none.
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

/// One file of a history.
pub(super) fn file(file: FileSummary) -> v1::ReplicaFile {
    v1::ReplicaFile {
        branch: file.branch.unwrap_or_default(),
        level: u32::from(file.level),
        min_txid: file.min.get(),
        max_txid: file.max.get(),
        time: Some(captured(file.time)),
        bytes: file.bytes,
    }
}

/// One branch of a history.
pub(super) fn branch_of(branch: BranchSummary) -> v1::Branch {
    v1::Branch {
        name: branch.name,
        from_txid: branch.from.map(Txid::get),
        head_txid: branch.head.map(Txid::get),
    }
}

/// A proof.
pub(super) fn verified(proof: Proof) -> v1::Verified {
    let Proof { verified, check } = proof;
    v1::Verified {
        txid: verified.txid.get(),
        files: u32::try_from(verified.files).unwrap_or(u32::MAX),
        pages: verified.pages,
        bytes: verified.bytes,
        checksum: verified.checksum.get(),
        quick_check: Some(quick_check(check)),
    }
}

/// What SQLite said.
fn quick_check(check: QuickCheck) -> v1::QuickCheck {
    use v1::quick_check::Outcome;
    let (outcome, lines) = match check {
        QuickCheck::Ok => (Outcome::Ok, Vec::new()),
        QuickCheck::Damaged(lines) => (Outcome::Damaged, lines),
        QuickCheck::NotChecked(reason) => (Outcome::NotChecked, vec![reason]),
    };
    v1::QuickCheck {
        outcome: outcome.into(),
        lines,
    }
}

/// What a restore will be.
pub(super) fn restore_header(info: RestoreInfo) -> v1::RestoreHeader {
    v1::RestoreHeader {
        size_bytes: info.bytes,
        txid: info.txid.get(),
        timestamp: Some(captured(info.timestamp)),
        page_size: info.page_size.get(),
        ownership: info.ownership.map(|owner| v1::Ownership {
            uid: owner.uid,
            gid: owner.gid,
            mode: owner.mode,
        }),
        warnings: info.warnings,
    }
}

/// A replica on the root.
pub(super) fn replica(replica: ReplicaSummary) -> v1::Replica {
    let (owner_pod, owner_node, released) = replica.owner.unwrap_or_default();
    v1::Replica {
        id: Some(id(&replica.id)),
        owner_pod,
        owner_pod_uid: String::new(),
        owner_node,
        released,
        txid: replica.head.map(Txid::get),
        time: replica.time.map(captured),
        files: u32::try_from(replica.files).unwrap_or(u32::MAX),
        bytes: replica.bytes,
        problem: String::new(),
    }
}

#[cfg(test)]
mod tests;
