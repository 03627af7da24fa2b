//! What is known of each database: the one place that everybody else reads.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use sqlrep_format::Txid;
use sqlrep_replica::DbId;
use tokio::sync::watch;

use crate::Key;
use crate::inspect::QuickCheck;

/// Where a database stands in the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Seen; what to do with it is not decided yet.
    Found,
    /// Its replica is being put back before the app starts.
    Restoring,
    /// The whole state is being read into the spool.
    Snapshotting,
    /// Commits are captured and shipped.
    Following,
    /// The pod goes away: the tail is shipped, then the replica is released.
    Draining,
    /// Drained; nothing is held any more.
    Gone,
    /// Something outside stops the flow; `reason` and `hint` say what and what to do.
    Stalled,
    /// Another writer owns the replica; this one's commits go to a branch.
    Fenced,
    /// Not a database that sqlrep can follow; `reason` and `hint` say why and what to do.
    Unsupported,
}

impl State {
    /// The word that people and machines read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Restoring => "restoring",
            Self::Snapshotting => "snapshotting",
            Self::Following => "following",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Stalled => "stalled",
            Self::Fenced => "fenced",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What has been counted since the agent began with this database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// WAL frames read.
    pub frames: u64,
    /// L0 files written to the spool.
    pub captured_files: u64,
    /// Bytes of those files.
    pub captured_bytes: u64,
    /// Files published on the replica.
    pub shipped_files: u64,
    /// Bytes of those files.
    pub shipped_bytes: u64,
    /// Checkpoints that this agent ran.
    pub checkpoints: u64,
    /// Restores into the volume.
    pub restores: u64,
    /// Stages that failed and were tried again.
    pub errors: u64,
}

/// What is known of a database's replica, beside how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// How many files it has; `None` before the first look.
    pub files: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Of when the newest snapshot is.
    pub snapshot_at: Option<SystemTime>,
    /// When it was last read back and found whole, and at which TXID.
    pub verified: Option<(SystemTime, Txid)>,
    /// What was found damaged, and what was done; until it is read back whole.
    pub damage: Option<String>,
    /// How often damage was found.
    pub damages: u64,
    /// The same of the last time, whole since or not: for those who look now and then.
    pub last_damage: Option<String>,
    /// Kept points that were lost with damaged files.
    pub lost_points: u64,
    /// When SQLite last looked at the database that the replica restores to, at which TXID, and
    /// what it found: [`QuickCheck::Ok`] or [`QuickCheck::Damaged`].
    pub quick_check: Option<(SystemTime, Txid, QuickCheck)>,
    /// Why it was not asked the last time, if so.
    pub not_checked: Option<String>,
    /// How often it found the database damaged.
    pub database_damages: u64,
    /// Why the last piece of upkeep failed.
    pub error: Option<String>,
    /// Files written by compaction, snapshots included.
    pub compactions: u64,
    /// Files removed by retention.
    pub removed: u64,
}

impl ReplicaStatus {
    /// The newest state was read back and found whole, by the agent or for a person.
    pub(crate) fn proven(&mut self, txid: Txid) {
        self.verified = Some((SystemTime::now(), txid));
        self.damage = None;
    }

    /// Damage was found.
    pub(crate) fn damaged(&mut self, text: String, lost_points: u64) {
        self.damage = Some(text.clone());
        self.last_damage = Some(text);
        self.damages += 1;
        self.lost_points += lost_points;
    }

    /// Takes in what SQLite says of a state.
    pub(crate) fn checked(&mut self, txid: Txid, check: &QuickCheck) {
        match check {
            QuickCheck::NotChecked(reason) => self.not_checked = Some(reason.clone()),
            QuickCheck::Ok | QuickCheck::Damaged(_) => {
                self.database_damages += u64::from(*check != QuickCheck::Ok);
                self.quick_check = Some((SystemTime::now(), txid, check.clone()));
                self.not_checked = None;
            }
        }
    }

    /// In words, that the app's database is damaged, and what to do.
    pub fn database_damage(&self) -> Option<String> {
        let (_, txid, QuickCheck::Damaged(lines)) = self.quick_check.as_ref()? else {
            return None;
        };
        let found = lines.first().map_or("", String::as_str);
        Some(format!(
            "the app's database itself is damaged at TXID {:x}, and its replica holds it as it \
             is (quick_check: {found}); sqlrepctl verify says more",
            txid.get()
        ))
    }
}

/// One line of `sqlrepctl list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStatus {
    /// Identity of the replica.
    pub id: DbId,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Whether its replica lies in a volume of its pod, and not on the agent's root.
    pub in_volume: bool,
    /// Where it stands.
    pub state: State,
    /// Why it is stalled, fenced or unsupported.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Name of the branch that takes this database's commits while it is fenced.
    pub branch: Option<String>,
    /// How many names its file has; more than one is a hard link.
    pub names: u64,
    /// Size of the database in bytes.
    pub size_bytes: u64,
    /// Size of its WAL file in bytes.
    pub wal_bytes: u64,
    /// Newest TXID in the spool.
    pub txid: Option<Txid>,
    /// Newest TXID on the replica.
    pub shipped: Option<Txid>,
    /// Since when something waits to be shipped.
    pub behind_since: Option<Instant>,
    /// How long the last shipped change took from being seen to being on the replica.
    pub last_lag: Option<Duration>,
    /// When something was last shipped.
    pub shipped_at: Option<SystemTime>,
    /// Bytes in the spool that wait to be shipped.
    pub pending_bytes: u64,
    /// The last error, until a later success of the same stage clears it.
    pub last_error: Option<String>,
    /// Its replica.
    pub replica: ReplicaStatus,
    /// Counters since start.
    pub counters: Counters,
}

impl DatabaseStatus {
    /// A database that was just seen.
    pub fn new(id: DbId, pod: &str, pod_uid: &str) -> Self {
        Self {
            id,
            pod: pod.to_owned(),
            pod_uid: pod_uid.to_owned(),
            in_volume: false,
            state: State::Found,
            reason: None,
            hint: None,
            branch: None,
            names: 1,
            size_bytes: 0,
            wal_bytes: 0,
            txid: None,
            shipped: None,
            behind_since: None,
            last_lag: None,
            shipped_at: None,
            pending_bytes: 0,
            last_error: None,
            replica: ReplicaStatus::default(),
            counters: Counters::default(),
        }
    }

    /// What a person would want to hear of at once: how it stands, whether it has other names, and how
    /// often it and its replica were found damaged. Files that come and go are none of it.
    fn turn(&self) -> (State, u64, u64, u64) {
        let ReplicaStatus {
            damages,
            database_damages,
            ..
        } = self.replica;
        (self.state, self.names, damages, database_damages)
    }

    /// How far the replica is behind now: the age of the oldest unshipped change, or zero.
    pub fn lag(&self, now: Instant) -> Duration {
        self.behind_since
            .map(|since| now.saturating_duration_since(since))
            .unwrap_or_default()
    }
}

/// The statuses of all databases, and a bell that rings when one changes.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    rows: Arc<Mutex<BTreeMap<Key, DatabaseStatus>>>,
    version: Arc<watch::Sender<u64>>,
    turns: Arc<watch::Sender<u64>>,
    /// How many rows are behind; changed under the lock of the rows.
    behind: Arc<AtomicUsize>,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// An empty board.
    pub(crate) fn new() -> Self {
        Self {
            rows: Arc::default(),
            version: Arc::new(watch::Sender::new(0)),
            turns: Arc::new(watch::Sender::new(0)),
            behind: Arc::default(),
        }
    }

    /// All rows, in the order of their keys.
    pub(crate) fn list(&self) -> Vec<DatabaseStatus> {
        self.rows().values().cloned().collect()
    }

    /// Shows all rows to `look`, which nobody changes meanwhile.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&BTreeMap<Key, DatabaseStatus>) -> T) -> T {
        look(&self.rows())
    }

    /// All rows with their keys.
    pub(crate) fn rows_with_keys(&self) -> Vec<(Key, DatabaseStatus)> {
        self.rows()
            .iter()
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect()
    }

    /// One row.
    pub(crate) fn get(&self, key: &Key) -> Option<DatabaseStatus> {
        self.rows().get(key).cloned()
    }

    /// Keys of all databases with this identity, live ones first.
    pub(crate) fn keys_of(&self, id: &DbId) -> Vec<Key> {
        let rows = self.rows();
        let mut found: Vec<_> = rows.iter().filter(|(_, row)| row.id == *id).collect();
        found.sort_by_key(|(_, row)| matches!(row.state, State::Gone | State::Draining));
        found.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// Rings on every change; the value is a version number.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Rings when a database took a turn: it came, it went, or what [`DatabaseStatus::turn`] tells is
    /// another one.
    pub(crate) fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// Whether a database has something to ship, without a look at each.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    /// Adds a row unless it is there.
    pub(crate) fn insert(&self, key: &Key, row: DatabaseStatus) {
        let mut rows = self.rows();
        if let Entry::Vacant(entry) = rows.entry(key.clone()) {
            self.count_behind(None, Some(&row));
            entry.insert(row);
            drop(rows);
            self.ring(true);
        }
    }

    /// Puts a row where there may be another one.
    pub(crate) fn put(&self, key: &Key, row: DatabaseStatus) {
        let mut rows = self.rows();
        self.count_behind(rows.get(key), Some(&row));
        rows.insert(key.clone(), row);
        drop(rows);
        self.ring(true);
    }

    /// Takes a row away.
    pub(crate) fn remove(&self, key: &Key) {
        let mut rows = self.rows();
        if let Some(row) = rows.remove(key) {
            self.count_behind(Some(&row), None);
            drop(rows);
            self.ring(true);
        }
    }

    /// Changes a row, if it is there, and rings when something changed.
    pub(crate) fn update(&self, key: &Key, change: impl FnOnce(&mut DatabaseStatus)) {
        let (changed, turned) = {
            let mut rows = self.rows();
            let Some(row) = rows.get_mut(key) else { return };
            let before = row.clone();
            change(row);
            self.count_behind(Some(&before), Some(row));
            if before.state != row.state {
                tracing::info!(
                    db = %row.id,
                    pod = %row.pod,
                    from = %before.state,
                    to = %row.state,
                    reason = row.reason.as_deref().unwrap_or_default(),
                    "state"
                );
            }
            (before != *row, before.turn() != row.turn())
        };
        if changed {
            self.ring(turned);
        }
    }

    fn count_behind(&self, before: Option<&DatabaseStatus>, after: Option<&DatabaseStatus>) {
        let is_behind =
            |row: Option<&DatabaseStatus>| row.is_some_and(|row| row.behind_since.is_some());
        match (is_behind(before), is_behind(after)) {
            (false, true) => drop(self.behind.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.behind.fetch_sub(1, Ordering::Relaxed)),
            (false, false) | (true, true) => {}
        }
    }

    fn ring(&self, turned: bool) {
        let next = |version: &mut u64| *version = version.wrapping_add(1);
        self.version.send_modify(next);
        if turned {
            self.turns.send_modify(next);
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Key, DatabaseStatus>> {
        // A panic while the lock was held leaves a row half changed at worst: rows are only shown.
        self.rows
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_come_and_go_are_no_turn() {
        let board = Board::new();
        let id: DbId = "ns/app/data/app.db".parse().unwrap();
        let key = Key {
            pod_uid: "uid".to_owned(),
            volume: "data".to_owned(),
            path: "app.db".into(),
        };
        let (changes, turns) = (board.changes(), board.turns());
        let rung = || (*changes.borrow(), *turns.borrow());
        board.insert(&key, DatabaseStatus::new(id.clone(), "pod", "uid"));
        assert_eq!(rung(), (1, 1));
        board.update(&key, |row| row.counters.shipped_files += 1);
        assert_eq!(rung(), (2, 1));
        board.update(&key, |row| row.state = State::Following);
        board.update(&key, |row| row.names = 2);
        board.update(&key, |row| row.replica.damages += 1);
        board.update(&key, |row| row.replica.database_damages += 1);
        assert_eq!(rung(), (6, 5));
        board.update(&key, |_| {});
        assert_eq!(rung(), (6, 5));
        board.put(&key, DatabaseStatus::new(id, "pod", "uid"));
        board.remove(&key);
        assert_eq!(rung(), (8, 7));
    }

    #[test]
    fn somebody_is_behind_as_long_as_a_row_says_so() {
        let board = Board::new();
        let row = |behind_since| DatabaseStatus {
            behind_since,
            ..DatabaseStatus::new("ns/app/data/app.db".parse().unwrap(), "pod", "uid")
        };
        let keys: Vec<Key> = ["a", "b", "c"]
            .map(|path| Key {
                pod_uid: "uid".to_owned(),
                volume: "data".to_owned(),
                path: path.into(),
            })
            .into();
        let now = Some(Instant::now());
        board.insert(&keys[0], row(None));
        board.insert(&keys[0], row(now)); // it is there
        assert!(!board.is_behind());
        board.insert(&keys[1], row(now));
        board.put(&keys[2], row(now));
        board.put(&keys[2], row(now));
        board.update(&keys[0], |row| row.behind_since = now);
        assert!(board.is_behind());
        board.update(&keys[0], |row| row.behind_since = None);
        board.put(&keys[1], row(None));
        assert!(board.is_behind());
        board.remove(&keys[2]);
        board.remove(&keys[2]);
        assert!(!board.is_behind());
    }
}
