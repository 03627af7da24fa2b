//! Databases that ended with their pod before they were read to the end: commits of them are lost,
//! which is said, counted, and told to the pod that comes next.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sqlrep_replica::DbId;

use super::{Context, Fleet, lock};
use crate::{Volume, limits};

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// How many since the start.
    count: AtomicU64,
    /// When the last of them was noted.
    last: Mutex<Option<SystemTime>>,
    /// What was said of each, until a pod of its app was told.
    untold: Mutex<HashMap<DbId, String>>,
}

impl Context {
    /// A database ended with its pod before it was read to the end: commits of it are lost.
    pub(crate) fn note_unread_end(&self, id: &DbId, what: &str) {
        self.unread.count.fetch_add(1, Ordering::Relaxed);
        *lock(&self.unread.last) = Some(SystemTime::now());
        tracing::error!(db = %id, "not read to the end: {what}");
        let mut untold = lock(&self.unread.untold);
        if untold.len() < limits::DATABASES_MAX || untold.contains_key(id) {
            untold.insert(id.clone(), what.to_owned());
        }
    }

    /// What was said of the databases of this volume, to be told to a pod of its app.
    pub(crate) fn take_unread(&self, volume: &Volume) -> Vec<(DbId, String)> {
        let mut untold = lock(&self.unread.untold);
        untold.extract_if(|id, _| volume.holds(id)).collect()
    }
}

impl Fleet {
    /// How many databases ended with their pod before they were read to the end, since the start.
    pub fn unread_ends(&self) -> u64 {
        self.context.unread.count.load(Ordering::Relaxed)
    }

    /// When the last of them was noted, by the node's clock; `None`: there was none since the start.
    pub fn last_unread_end(&self) -> Option<SystemTime> {
        *lock(&self.context.unread.last)
    }
}
