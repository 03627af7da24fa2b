//! Every bound of the flow, with its arithmetic (L12).

use std::time::Duration;

/// Threads that ship to one target. Each publish is a handful of round trips to the NAS;
/// four in flight hide their latency for a hundred databases that commit at once.
pub const SHIP_THREADS: usize = 4;

/// Threads for restores, verification and listings of one target, apart from shipping so that
/// a long read never delays a commit on its way out.
pub const BULK_THREADS: usize = 2;

/// Threads for the upkeep of one target's replicas: compaction, snapshots, retention, reading back.
/// One: it has time, and must take neither disk nor share from those who wait.
pub const UPKEEP_THREADS: usize = 1;

/// Threads of each kind for a volume of one pod: to ship, to restore and list, for upkeep. Three in
/// all, so that a share that hangs costs a pod its own three and nobody else's.
pub const TARGET_THREADS: usize = 1;

/// Steps that a level keeps once the next one holds them: a day of half minutes, ten days of five
/// minutes. More is not more exact than anybody asks for a day later, and a directory on a share
/// is read whole.
pub const LEVEL_STEPS: u32 = 2880;

/// Within this time after a start each replica is looked at once, to see what upkeep is due; one
/// that is written to, at once.
pub const FIRST_LOOK: Duration = Duration::from_mins(10);

/// First pause after failed upkeep; it doubles up to [`UPKEEP_RETRY_MAX`]. Nobody waits for it.
pub const UPKEEP_RETRY_MIN: Duration = Duration::from_secs(5);

/// Longest pause between attempts of upkeep.
pub const UPKEEP_RETRY_MAX: Duration = Duration::from_mins(15);

/// Damaged files that one mending of a replica plans around.
pub const HEAL_ATTEMPTS: usize = 16;

/// How long nobody asks the live database for a new snapshot again when the last one did not mend its
/// replica: each costs a reading of the whole database, and as many bytes on the share.
pub const RENEW_PAUSE: Duration = Duration::from_hours(1);

/// Temp files in a replica that nobody touched for this long were left by a crash.
pub const TEMP_AGE: Duration = Duration::from_hours(6);

/// Jobs that may wait for a lane. Each database has at most one job per lane in flight, so
/// this is the number of databases that may be behind at once before callers are told "busy".
pub const LANE_QUEUE: usize = 4096;

/// How long a caller waits for one publish before its lane counts as stalled. A hard NFS mount
/// retries for ever; the thread is not freed by this, only the caller.
pub const SHIP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a caller waits for a listing or a small file.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a restore may take before its caller gives up: 1 TB at 100 MB/s.
pub const RESTORE_TIMEOUT: Duration = Duration::from_hours(3);

/// How long the cluster is asked whether a pod lives; an answer that is late is none.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// First pause after a failed stage; it doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(100);

/// First pause after a database could not be attached to; it doubles up to [`RETRY_MAX`]. An attempt
/// takes a tenth of a millisecond.
pub const ATTACH_RETRY_MIN: Duration = Duration::from_millis(5);

/// Longest pause between attempts: an outage ends at most this long before it is noticed.
pub const RETRY_MAX: Duration = Duration::from_secs(10);

/// A replica that cannot be written for this long is shown as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);

/// How long a person waits for a takeover: a restore of a few gigabytes and one listing.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_mins(2);

/// How often is looked whether the pods that terminate are gone, while the agent ends.
pub const ENDINGS_LOOK: Duration = Duration::from_millis(50);

/// How long an agent that ends ships what was committed so far, while it still captures.
pub const SHUTDOWN_SHIP: Duration = Duration::from_secs(5);

/// How long it ships what came since, when it captures no more: nobody follows the pods of the node
/// then, and what is left lies in the spool, from where the next agent ships it.
pub const SHUTDOWN_TAIL: Duration = Duration::from_secs(1);

/// How long a process that rewinds may take to open both databases.
pub const REWIND_START: Duration = Duration::from_secs(30);

/// How long it is heard of nothing while it waits for the app's lock; it gives up after 10 s.
pub const REWIND_LOCK: Duration = Duration::from_secs(20);

/// How long it may take for one of its steps. The last one makes all of them durable: 30 GB at
/// 100 MB/s.
pub const REWIND_STEP: Duration = Duration::from_mins(5);

/// How often it is looked whether the pod of a rewind terminates.
pub const REWIND_WATCH: Duration = Duration::from_millis(50);

/// Databases that are looked at by SQLite at once, and so scratch files for that: one for a scrub and
/// one for a person, at the least.
pub const CHECKS_MAX: usize = 2;

/// How soon a replica whose turn to be read back it is asks again for a place to be looked at.
pub const CHECK_PAUSE: Duration = Duration::from_secs(30);

/// What a scratch file for that leaves free of the node's disk. A kubelet deletes images from 85 %
/// on, and pods from 90 %.
pub const DISK_KEPT_PERCENT: u64 = 16;

/// Of a disk that is fuller it takes at most this part of what is free: hardly anybody's last.
pub const DISK_PART: u64 = 16;

/// How long SQLite may take to look at a database of so many bytes: a minute, and one more for each
/// 256 MiB, on a disk that others use first; an hour at most.
pub fn check_timeout(bytes: u64) -> Duration {
    let more =
        Duration::from_mins(1).saturating_mul(u32::try_from(bytes >> 28).unwrap_or(u32::MAX));
    (Duration::from_mins(1) + more).min(Duration::from_hours(1))
}

/// Commands that may wait for one capture thread.
pub const CAPTURE_QUEUE: usize = 16;

/// Stack of a capture thread: SQLite needs about 40 KB for the statements we run.
pub const CAPTURE_STACK_BYTES: usize = 128 * 1024;

/// Databases on one node; one thread and about ten descriptors each.
pub const DATABASES_MAX: usize = 4096;

/// Chunks of a restore stream that may wait for a slow client: 8 × 256 KiB.
pub const STREAM_CHUNKS: usize = 8;

/// Bytes in one chunk of a restore stream.
pub const STREAM_CHUNK_BYTES: usize = 256 * 1024;

const _: () = assert!(RETRY_MIN.as_millis() < RETRY_MAX.as_millis());
const _: () = assert!(LANE_QUEUE >= DATABASES_MAX);
