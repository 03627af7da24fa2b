//! Which inodes are under capture, and must not be opened here (L3).
//!
//! Closing any descriptor of a database's inode drops the POSIX locks that this process holds
//! on it, and with them SQLite's. So a header is read only under a [`ReadPass`], a pass is never
//! given for a claimed inode, and a claim waits for the pass of its inode to end (a read of 100
//! bytes). There is no moment at which both hold.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::event::InodeKey;

/// The set of claimed inodes, shared between discovery and whoever opens databases.
///
/// Claims are counted: an inode claimed twice is free after the second release.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    pass_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    claimed: HashMap<InodeKey, u32>,
    /// Inodes whose header is being read at this moment; one for each scanning thread.
    reading: Vec<InodeKey>,
}

impl Claims {
    /// No claims yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Claims the inode: from here on discovery will not open it. Call it before anything of
    /// this process opens the database for SQLite. Waits while its header is being read, which
    /// is one read of 100 bytes.
    pub fn claim(&self, inode: InodeKey) {
        let mut state = self.lock();
        while state.reading.contains(&inode) {
            state = self
                .0
                .pass_ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let count = state.claimed.entry(inode).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// Takes one claim back, after the last descriptor of the database was closed. A stale claim
    /// would hide a new database that is given the same inode number. Unknown inodes are fine.
    pub fn release(&self, inode: InodeKey) {
        let mut state = self.lock();
        if let Some(count) = state.claimed.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                state.claimed.remove(&inode);
            }
        }
    }

    /// Whether the inode is claimed now.
    pub fn is_claimed(&self, inode: InodeKey) -> bool {
        self.lock().claimed.contains_key(&inode)
    }

    /// Leave to open the inode once, or nothing if it is claimed.
    pub(crate) fn pass(&self, inode: InodeKey) -> Option<ReadPass<'_>> {
        let mut state = self.lock();
        if state.claimed.contains_key(&inode) {
            return None;
        }
        state.reading.push(inode);
        Some(ReadPass {
            claims: self,
            inode,
        })
    }

    /// A panic elsewhere leaves the set itself whole, so poisoning is passed over.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to open one inode; must outlive the descriptor.
#[derive(Debug)]
pub(crate) struct ReadPass<'a> {
    claims: &'a Claims,
    inode: InodeKey,
}

impl Drop for ReadPass<'_> {
    fn drop(&mut self) {
        let mut state = self.claims.lock();
        if let Some(place) = state.reading.iter().position(|inode| *inode == self.inode) {
            state.reading.swap_remove(place);
        }
        drop(state);
        self.claims.0.pass_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const INODE: InodeKey = InodeKey { dev: 1, ino: 2 };

    #[test]
    fn claimed_inode_gets_no_pass_until_each_claim_is_released() {
        let claims = Claims::new();
        claims.claim(INODE);
        claims.claim(INODE);
        assert!(claims.pass(INODE).is_none());
        claims.release(INODE);
        assert!(claims.pass(INODE).is_none());
        claims.release(INODE);
        claims.release(INODE);
        assert!(claims.pass(INODE).is_some());
        assert!(!claims.is_claimed(INODE));
    }

    #[test]
    fn claim_waits_for_the_end_of_a_pass() {
        let claims = Claims::new();
        let pass = claims.pass(INODE).unwrap();
        let (sender, receiver) = mpsc::channel();
        let other = claims.clone();
        let thread = thread::spawn(move || {
            other.claim(INODE);
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(pass);
        receiver.recv_timeout(Duration::from_secs(5)).unwrap();
        thread.join().unwrap();
        assert!(claims.is_claimed(INODE));
    }
}
