//! Answers that are believed for a while, a bounded number of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Remembers answers until their time is over.
pub(super) struct Memo<K, V> {
    most: usize,
    known: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    /// Remembers at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// What is still believed.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, until) = known.get(key)?;
        (*until > Instant::now()).then(|| value.clone())
    }

    /// Remembers an answer for so long. What is forgotten for want of room is only asked again.
    pub(super) fn put(&self, key: K, value: V, time: Duration) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.most {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= self.most {
            known.clear();
        }
        known.insert(key, (value, now + time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_believed_for_their_time_and_no_longer() {
        let memo = Memo::new(2);
        memo.put("a", 1, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(memo.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(memo.get(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_than_allowed() {
        let memo = Memo::new(3);
        for key in 0..100 {
            memo.put(key, key, Duration::from_secs(10));
            assert_eq!(memo.get(&key), Some(key));
            assert!(memo.known.lock().unwrap().len() <= 3);
        }
    }
}
