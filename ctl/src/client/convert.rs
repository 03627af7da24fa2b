//! From the wire's types to ours; nothing beyond this module sees the former (L10).

use std::time::Duration;

use sqlrep_format::{Timestamp, Txid, TxidRange};
use sqlrep_proto::v1;

use super::QuickCheck;
use crate::database::{Database, Id, Ownership, Replica, State, Wanted};
use crate::failure::{Failure, Result};
use crate::history::{Branch, File};
use crate::reference::Named as _;

/// An answer that breaks the contract.
pub(super) fn nonsense(what: &str) -> Failure {
    Failure::failed(format!("the agent sent nonsense: {what}"))
        .hint("are agent and sqlrepctl of the same version? see `sqlrepctl version`")
}

pub(super) fn id(id: Option<v1::DatabaseId>) -> Result<Id> {
    let v1::DatabaseId {
        namespace,
        app,
        volume,
        path,
    } = id.ok_or_else(|| nonsense("a database without a name"))?;
    if [&namespace, &app, &volume, &path]
        .iter()
        .any(|part| part.is_empty())
    {
        return Err(nonsense("a database with half a name"));
    }
    Ok(Id {
        namespace,
        app,
        volume,
        path,
    })
}

pub(super) fn to_id(id: &Id) -> v1::DatabaseId {
    let Id {
        namespace,
        app,
        volume,
        path,
    } = id.clone();
    v1::DatabaseId {
        namespace,
        app,
        volume,
        path,
    }
}

/// The id of a replica from its name below the root.
pub(super) fn id_of_replica(replica: &Replica) -> Result<Id> {
    let mut parts = replica.name.splitn(4, '/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(app), Some(volume), Some(path)) => Ok(Id {
            namespace,
            app,
            volume,
            path,
        }),
        _ => Err(nonsense("a replica with half a name")),
    }
}

fn state(state: i32) -> State {
    match v1::State::try_from(state) {
        Ok(v1::State::Found) => State::Found,
        Ok(v1::State::Restoring) => State::Restoring,
        Ok(v1::State::Snapshotting) => State::Snapshotting,
        Ok(v1::State::Following) => State::Following,
        Ok(v1::State::Draining) => State::Draining,
        Ok(v1::State::Gone) => State::Gone,
        Ok(v1::State::Stalled) => State::Stalled,
        Ok(v1::State::Fenced) => State::Fenced,
        Ok(v1::State::Unsupported) => State::Unsupported,
        Ok(v1::State::Unspecified) | Err(_) => State::Unknown,
    }
}

pub(super) fn time(time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    let millis = time
        .seconds
        .checked_mul(1000)?
        .checked_add(i64::from(time.nanos / 1_000_000))?;
    Some(Timestamp::from_millis(millis))
}

fn to_time(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.millis();
    let rest = i32::try_from(millis.rem_euclid(1000)).expect("a remainder below 1000");
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: rest * 1_000_000,
    }
}

fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default()
}

pub(super) fn database(database: v1::Database) -> Result<Database> {
    Ok(Database {
        id: id(database.id)?,
        node: database.node,
        pod: database.pod,
        pod_uid: database.pod_uid,
        state: state(database.state),
        since: time(database.state_since),
        reason: database.reason,
        hint: database.hint,
        size_bytes: database.size_bytes,
        wal_bytes: database.wal_bytes,
        txid: database.txid.and_then(Txid::new),
        shipped: database.shipped_txid.and_then(Txid::new),
        lag: duration(database.lag),
        pending_bytes: database.pending_bytes,
        last_error: database.last_error,
        last_error_at: time(database.last_error_at),
        captured_at: time(database.captured_at),
        shipped_at: time(database.shipped_at),
        snapshot_at: time(database.snapshot_at),
        verified_at: time(database.verified_at),
        check: quick_check(database.quick_check),
        checked_at: time(database.quick_checked_at),
    })
}

pub(super) fn not_checked(reason: &str) -> QuickCheck {
    QuickCheck::NotChecked(vec![reason.to_owned()])
}

/// What an agent says of a state; an answer that is not understood is no good one.
pub(super) fn quick_check(check: Option<v1::QuickCheck>) -> Option<QuickCheck> {
    use v1::quick_check::Outcome;
    let check = check?;
    Some(match check.outcome() {
        Outcome::Ok => QuickCheck::Ok,
        Outcome::Damaged => QuickCheck::Damaged(check.lines),
        Outcome::NotChecked => QuickCheck::NotChecked(check.lines),
        Outcome::Unspecified => {
            not_checked("the agent gave an answer that this client is too old to know")
        }
    })
}

pub(super) fn replica(replica: v1::Replica) -> Result<Replica> {
    Ok(Replica {
        name: id(replica.id)?.name(),
        owner_pod: replica.owner_pod,
        owner_node: replica.owner_node,
        released: replica.released,
        txid: replica.txid.and_then(Txid::new),
        time: time(replica.time),
        files: u64::from(replica.files),
        bytes: replica.bytes,
        problem: replica.problem,
    })
}

pub(super) fn file(file: v1::ReplicaFile) -> Result<File> {
    let range = Txid::new(file.min_txid)
        .zip(Txid::new(file.max_txid))
        .and_then(|(min, max)| TxidRange::new(min, max))
        .ok_or_else(|| nonsense("a file without TXIDs"))?;
    let level = u8::try_from(file.level).ok().filter(|level| *level <= 9);
    Ok(File {
        branch: file.branch,
        level: level.ok_or_else(|| nonsense("a file at no level"))?,
        range,
        time: time(file.time).ok_or_else(|| nonsense("a file without a time"))?,
        bytes: file.bytes,
    })
}

pub(super) fn branch(branch: v1::Branch) -> Branch {
    let txid = |txid: Option<u64>| txid.and_then(Txid::new);
    let (from, head) = (txid(branch.from_txid), txid(branch.head_txid));
    Branch {
        name: branch.name,
        from,
        head,
    }
}

pub(super) fn to_point(wanted: Wanted) -> Option<v1::Point> {
    let at = match wanted {
        Wanted::Latest => return None,
        Wanted::Txid(txid) => v1::point::At::Txid(txid.get()),
        Wanted::Before(time) => v1::point::At::Before(to_time(time)),
    };
    Some(v1::Point { at: Some(at) })
}

pub(super) fn txid(number: u64) -> Result<Txid> {
    Txid::new(number).ok_or_else(|| nonsense("TXID 0"))
}

/// Never more than permission bits: a restored file is not to become set-uid.
pub(super) fn ownership(ownership: Option<v1::Ownership>) -> Option<Ownership> {
    ownership.map(|v1::Ownership { uid, gid, mode }| Ownership {
        uid,
        gid,
        mode: mode & 0o777,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive_the_wire() {
        for millis in [-1, -1000, -1001, 0, 1, 999, 1_795_380_538_552] {
            let there = Timestamp::from_millis(millis);
            assert_eq!(time(Some(to_time(there))), Some(there), "{millis}");
        }
    }

    #[test]
    fn absurd_answers_are_refused_not_believed() {
        assert!(id(None).is_err());
        assert!(
            id(Some(v1::DatabaseId {
                namespace: "a".into(),
                ..Default::default()
            }))
            .is_err()
        );
        let bad = |min_txid, max_txid, level| v1::ReplicaFile {
            min_txid,
            max_txid,
            level,
            time: Some(prost_types::Timestamp::default()),
            ..Default::default()
        };
        assert!(file(bad(1, 2, 0)).is_ok());
        assert!(file(bad(0, 2, 0)).is_err());
        assert!(file(bad(3, 2, 0)).is_err());
        assert!(file(bad(1, 2, 10)).is_err());
        let far = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(time(Some(far)), None);
        assert_eq!(
            ownership(Some(v1::Ownership {
                uid: 0,
                gid: 0,
                mode: 0o6755
            }))
            .unwrap()
            .mode,
            0o755
        );
    }
}
