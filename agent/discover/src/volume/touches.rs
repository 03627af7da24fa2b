//! Which databases may have been written to, and when that is said.
//!
//! Whoever follows a database looks on for a while after each word, less and less often, and sees a
//! commit at most as much later; each word costs three threads a turn. So a database that was told of
//! rests, and for longer when its writer never pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A database that was told of is not told of again for so long.
pub(super) const REST: Duration = Duration::from_millis(64);

/// The same of one that was written to in each of its rests. Whoever follows it looks on for as long.
const REST_MAX: Duration = REST.saturating_mul(2);

/// What is to be said of the databases of a volume.
#[derive(Debug, Default)]
pub(super) struct Touches {
    due: BTreeSet<PathBuf>,
    told: BTreeMap<PathBuf, Told>,
}

/// A database that was told of lately.
#[derive(Clone, Copy, Debug)]
struct Told {
    until: Instant,
    rest: Duration,
    /// Whether it was written to in this rest.
    again: bool,
}

impl Touches {
    /// It may have been written to.
    pub(super) fn add(&mut self, path: PathBuf) {
        self.due.insert(path);
    }

    /// That is to be said at once.
    pub(super) fn add_at_once(&mut self, path: PathBuf) {
        self.told.remove(&path);
        self.due.insert(path);
    }

    /// When a rest ends after which there is something to say.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let rests = self.due.iter().filter_map(|path| self.told.get(path));
        rests.map(|told| told.until).min()
    }

    /// What is to be said now, of those databases that are `followed`.
    pub(super) fn take(&mut self, now: Instant, followed: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        if self.due.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for path in std::mem::take(&mut self.due) {
            let mut rest = REST;
            match self.told.get_mut(&path) {
                Some(told) if now < told.until => {
                    told.again = true;
                    self.due.insert(path);
                    continue;
                }
                Some(told) if told.again => rest = (told.rest * 2).min(REST_MAX),
                _ => {}
            }
            if followed(&path) {
                let told = Told {
                    until: now + rest,
                    rest,
                    again: false,
                };
                self.told.insert(path.clone(), told);
                taken.push(path);
            }
        }
        self.told.retain(|_, told| now < told.until);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a database is told of that is written to at these times, in milliseconds.
    fn told(writes: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let start = Instant::now();
        let path = Path::new("app.db");
        let mut writes = writes.into_iter().peekable();
        let (mut touches, mut told) = (Touches::default(), vec![]);
        loop {
            let write = writes.peek().map(|at| start + Duration::from_millis(*at));
            let Some(now) = [write, touches.next_due()].into_iter().flatten().min() else {
                assert!(touches.due.is_empty(), "something is never said");
                return told;
            };
            if write == Some(now) {
                writes.next();
                touches.add(path.to_owned());
            }
            let taken = touches.take(now, |_| true);
            let now = u64::try_from((now - start).as_millis()).unwrap();
            told.extend(taken.iter().map(|_| now));
        }
    }

    #[test]
    fn a_write_now_and_then_is_told_at_once() {
        let writes: Vec<_> = (0..100).map(|number| number * 70).collect();
        assert_eq!(told(writes.clone()), writes);
    }

    #[test]
    fn each_write_is_told_of_within_a_rest_and_none_is_told_twice() {
        assert_eq!(told([0, 1, 2, 300, 301, 700]), [0, 64, 300, 364, 700]);
        for gap in 1..300 {
            let writes: Vec<_> = (0..500).map(|number| number * gap).collect();
            let told = told(writes.clone());
            assert!(told.len() <= writes.len());
            for write in writes {
                let after = told.iter().find(|at| **at >= write).unwrap();
                assert!(after - write < 128, "{gap}: {write} at {after}");
            }
        }
    }

    #[test]
    fn a_writer_that_never_pauses_is_told_of_less_often() {
        for gap in [1, 10, 30, 50] {
            let told = told((0..10_000 / gap).map(|number| number * gap));
            assert!(told.len() <= 80 + 2, "{gap}: {} times", told.len());
            assert!(told.len() >= 60, "{gap}: {} times", told.len());
        }
        // And as soon as before once it has paused.
        let told = told((0..100).map(|number| number * 10).chain([5000, 5001]));
        assert_eq!(told[told.len() - 2..], [5000, 5064]);
    }

    #[test]
    fn a_name_that_came_or_went_is_told_at_once() {
        let (start, mut touches) = (Instant::now(), Touches::default());
        let path = PathBuf::from("app.db");
        touches.add(path.clone());
        assert_eq!(touches.take(start, |_| true).len(), 1);
        touches.add(path.clone());
        assert!(touches.take(start, |_| true).is_empty());
        touches.add_at_once(path.clone());
        assert_eq!(touches.take(start, |_| true).len(), 1);
        touches.add_at_once(path);
        assert!(
            touches.take(start, |_| false).is_empty(),
            "nobody follows it"
        );
        assert_eq!(touches.next_due(), None);
    }
}
