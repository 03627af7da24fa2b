//! Opening sled, and moving aside what cannot be opened.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread;

/// The layout of keys and values. Another number: the ledger is rebuilt.
const VERSION: &[u8] = b"sqlrep-ledger-1";

/// sled's page cache: enough for the chunks that busy databases touch again and again.
const CACHE_BYTES: u64 = 4 << 20;

/// sled's log is written in pieces of this size, and some twenty of them stay in memory; sled's own
/// default takes ten megabytes. A ledger with pieces of another size is rebuilt (L8).
pub(super) const SEGMENT_BYTES: usize = 64 << 10;

/// How long a predecessor in this process may take to let go of its files: sled closes them on a
/// thread of its own.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Why sled does not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// A file operation failed.
    #[error("sled: {0}")]
    Io(io::Error),
    /// Damage that sled noticed.
    #[error("sled: {0}")]
    Sled(sled::Error),
    /// Damage that sled noticed late.
    #[error("sled panicked")]
    Panicked,
    /// Not our keys.
    #[error("it is of another version")]
    Version,
}

impl From<sled::Error> for OpenError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            error => Self::Sled(error),
        }
    }
}

/// How late a timer of sled's threads may be: an hour, in nanoseconds.
const SLACK: NonZeroU64 = NonZeroU64::MIN.saturating_add(3_600_000_000_000);

/// Runs what may start threads of sled's. It keeps seven, each of which looks each second whether it is
/// still needed, which cannot be told otherwise and is a good part of what an idle agent does. A thread
/// inherits how late its timers may be (prctl(2), `PR_SET_TIMERSLACK`): these are woken for work at
/// once, as ever, and for nothing when the processor is awake anyway, or never.
pub(super) fn idly<T>(start: impl FnOnce() -> T) -> T {
    let before = thread::current_timer_slack();
    let set = |slack| {
        // Without it they only wake more often.
        if let Err(err) = thread::set_current_timer_slack(slack) {
            tracing::debug!(%err, "sled's threads wake each second");
        }
    };
    set(Some(SLACK));
    let started = start();
    set(before.ok().and_then(NonZeroU64::new));
    started
}

/// Opens sled and checks that the keys are ours.
pub(super) fn try_open(dir: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None);
    let began = Instant::now();
    let db = loop {
        match catch_unwind(AssertUnwindSafe(|| idly(|| config.open()))) {
            Ok(Ok(db)) => break db,
            Ok(Err(sled::Error::Io(error)))
                if error.kind() == io::ErrorKind::WouldBlock
                    || error.to_string().contains("lock") =>
            {
                if began.elapsed() > CLOSE_WAIT {
                    return Err(OpenError::Io(error));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_panic) => return Err(OpenError::Panicked),
        }
    };
    let version = catch_unwind(AssertUnwindSafe(|| match db.get(b"v")? {
        None if db.is_empty() => db.insert(b"v", VERSION).map(|_| true),
        found => Ok(found.is_some_and(|found| *found == *VERSION)),
    }));
    match version {
        Ok(Ok(true)) => Ok(db),
        Ok(Ok(false)) => Err(OpenError::Version),
        Ok(Err(error)) => Err(error.into()),
        Err(_panic) => Err(OpenError::Panicked),
    }
}

/// Whether the cause lies outside the ledger, so that moving it aside would not help.
pub(super) fn is_environment(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::WouldBlock
    )
}

/// Says at the next start that this ledger broke while in use.
pub(super) fn marker(dir: &Path) -> PathBuf {
    dir.with_extension("broken")
}

/// Moves the ledger to `ledger.corrupt-<n>`, of which only the newest stays, for whoever wants to
/// look at it.
pub(super) fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let prefix = format!(
        "{}.corrupt-",
        dir.file_name().unwrap_or_default().to_string_lossy()
    );
    let mut number = 0;
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else {
            continue;
        };
        number = number.max(suffix.parse::<u64>().unwrap_or(0));
        fs::remove_dir_all(entry.path())?;
    }
    let aside = parent.join(format!("{prefix}{}", number.saturating_add(1)));
    match rustix::fs::rename(dir, &aside) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_file(marker(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}
