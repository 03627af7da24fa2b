//! SQLite's settings for the whole process.

use std::sync::OnceLock;

use crate::{Error, ffi};

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
    let lean = *CONFIGURED.get_or_init(ffi::configure_sqlite);
    if !lean {
        tracing::debug!("SQLite was in use before it could be made lean: it takes more memory");
    }
    Ok(())
}

/// The version of the SQLite that is linked, as in "3.54.0".
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}
