//! Settings for the whole process: SQLite's, and the allocator's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use crate::{Error, code, ffi};

/// The first version without the WAL-reset bug (LITESTREAM.md §6).
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// Refuses a SQLite that must not checkpoint beside other processes, and makes it lean. Called by
/// [`crate::Session::open`] too, but only the first call of a process does something, and only
/// before the first connection can the settings change.
pub fn init() -> Result<(), Error> {
    static CONFIGURED: OnceLock<bool> = OnceLock::new();
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(Error::SqliteTooOld {
            found: rusqlite::version(),
        });
    }
    let lean = *CONFIGURED.get_or_init(|| {
        ffi::configure_allocator();
        ffi::configure_sqlite()
    });
    if !lean {
        tracing::debug!("SQLite was in use before it could be made lean: it takes more memory");
    }
    Ok(())
}

/// The version of the SQLite that is linked, as in "3.54.0".
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Whether buffers were dropped since memory was last given back.
static FREED: AtomicBool = AtomicBool::new(false);

/// A database that fell quiet has dropped its buffers. When the first one does, most of the code that
/// a start takes has been run.
pub(crate) fn note_freed() {
    static STARTED: Once = Once::new();
    STARTED.call_once(code::let_go);
    FREED.store(true, Ordering::Relaxed);
}

/// Gives memory that quiet databases have freed back to the system, which the allocator would
/// keep, and the code that they ran. Costs nothing where nothing was freed; to be called every few
/// seconds.
pub fn give_back_memory() {
    if FREED.swap(false, Ordering::Relaxed) {
        ffi::trim_allocator();
        code::let_go();
    }
}
