//! How long calls on replicas and restores take, and how many fail: how a slow or failing share
//! looks from here.
//!
//! A call that hangs is counted as running, and as nothing else until it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The bounds of a histogram's buckets; what took longer is in none of them.
pub const BUCKETS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2500),
    Duration::from_secs(10),
    Duration::from_mins(1),
];

/// What is asked of the place where replicas live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NfsOp {
    /// Look whether the place is there and is what it was.
    Check,
    /// List files.
    List,
    /// Open a file to read it.
    Open,
    /// Publish a file, from its first byte to the directory's sync.
    Put,
    /// Take files away.
    Remove,
    /// Read a manifest or a note.
    ReadNote,
    /// Write one.
    WriteNote,
}

impl NfsOp {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Check,
        Self::List,
        Self::Open,
        Self::Put,
        Self::Remove,
        Self::ReadNote,
        Self::WriteNote,
    ];

    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::List => "list",
            Self::Open => "open",
            Self::Put => "put",
            Self::Remove => "remove",
            Self::ReadNote => "read_note",
            Self::WriteNote => "write_note",
        }
    }
}

/// Durations, counted by [`BUCKETS`].
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Durations {
    pub(crate) fn record(&self, took: Duration) {
        let at_most = |bound: &Duration| took <= *bound;
        if let Some(bucket) = BUCKETS.iter().position(at_most) {
            add(self.buckets.get(bucket));
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn so_far(&self) -> Histogram {
        let mut below = 0;
        let buckets = self.buckets.each_ref().map(|bucket| {
            below += bucket.load(Ordering::Relaxed);
            below
        });
        Histogram {
            buckets,
            // Counted after the buckets, so it may lack one that they have.
            count: self.count.load(Ordering::Relaxed).max(below),
            sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}

fn add(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long something took since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How often it took at most so long as [`BUCKETS`] says, each with all that took less.
    pub buckets: [u64; BUCKETS.len()],
    /// How often it was done at all.
    pub count: u64,
    /// All of it together.
    pub sum: Duration,
}

/// One kind of call on replicas, since the agent began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NfsCalls {
    /// Which kind.
    pub op: NfsOp,
    /// Those that came back, well or not.
    pub took: Histogram,
    /// Those of them that failed.
    pub errors: u64,
    /// Those that are under way, or hang.
    pub running: u64,
}

#[derive(Debug, Default)]
struct Kind {
    took: Durations,
    errors: AtomicU64,
    running: AtomicU64,
}

/// Counts the calls of a process; clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<[Kind; NfsOp::ALL.len()]>);

impl Meter {
    /// Runs a call and counts it.
    pub(crate) fn timed<T, E>(
        &self,
        op: NfsOp,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let running = Running::begin(self.kind(op));
        let result = call();
        running.came_back(result.is_err());
        result
    }

    pub(crate) fn so_far(&self) -> Vec<NfsCalls> {
        let calls = NfsOp::ALL.map(|op| {
            let kind = self.kind(op);
            NfsCalls {
                op,
                took: kind.took.so_far(),
                errors: kind.errors.load(Ordering::Relaxed),
                running: kind.running.load(Ordering::Relaxed),
            }
        });
        calls.into()
    }

    fn kind(&self, op: NfsOp) -> &Kind {
        &self.0[op as usize]
    }
}

/// A call that is under way; a panic ends it as well.
struct Running<'a> {
    kind: &'a Kind,
    begun: Instant,
}

impl<'a> Running<'a> {
    fn begin(kind: &'a Kind) -> Self {
        kind.running.fetch_add(1, Ordering::Relaxed);
        Self {
            kind,
            begun: Instant::now(),
        }
    }

    fn came_back(self, failed: bool) {
        self.kind.took.record(self.begun.elapsed());
        if failed {
            self.kind.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.kind.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_every_bucket_that_is_not_shorter() {
        let durations = Durations::default();
        for millis in [0, 1, 2, 100, 101, 60_000, 60_001] {
            durations.record(Duration::from_millis(millis));
        }
        let seen = durations.so_far();
        assert_eq!(seen.buckets, [2, 3, 3, 4, 5, 5, 5, 6]);
        assert_eq!(seen.count, 7);
        assert_eq!(seen.sum, Duration::from_millis(120_205));
    }

    #[test]
    fn a_call_that_hangs_is_running_and_one_that_fails_is_an_error() {
        let meter = Meter::default();
        let of = |op| meter.so_far().into_iter().find(|calls| calls.op == op);
        let put: Result<(), ()> = meter.timed(NfsOp::Put, || {
            assert_eq!(of(NfsOp::Put).unwrap().running, 1);
            Err(())
        });
        assert_eq!(put, Err(()));
        let put = of(NfsOp::Put).unwrap();
        assert_eq!((put.took.count, put.errors, put.running), (1, 1, 0));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            meter.timed(NfsOp::List, || -> Result<(), ()> { panic!("a bug") })
        }));
        assert!(panicked.is_err());
        let list = of(NfsOp::List).unwrap();
        assert_eq!((list.took.count, list.errors, list.running), (0, 0, 0));
    }

    #[test]
    fn each_operation_has_its_own_place() {
        for (place, op) in NfsOp::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, place, "{op:?}");
        }
    }
}
