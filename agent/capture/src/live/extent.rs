//! How large a database can be of which so little lies on the disk.
//!
//! A header, a WAL or a file full of holes may claim 2^32 pages and cost its pod nothing; to read
//! and to keep them would cost the node its memory and its disk. So what is claimed must be backed
//! by what the pod's own volume holds, and is counted against.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::Error;

/// What is smaller is believed: it costs a few seconds at most.
const BELIEVED_BYTES: u64 = 1 << 30;

/// Anything else takes some room: pages of text on a file system that compresses, at the utmost.
const BYTES_PER_BYTE_MAX: u64 = 64;

/// Refuses a database of `claimed` bytes that has next to nothing on the disk, in all of `files`.
pub(super) fn check(claimed: u64, files: &[&File], path: &Path) -> Result<(), Error> {
    if claimed <= BELIEVED_BYTES {
        return Ok(());
    }
    let mut stored = 0_u64;
    for file in files {
        let facts = file.metadata().map_err(Error::io("stat", path))?;
        // in units of 512 bytes, whatever the file system's blocks are
        stored = stored.saturating_add(facts.blocks().saturating_mul(512));
    }
    if claimed / BYTES_PER_BYTE_MAX <= stored {
        return Ok(());
    }
    Err(Error::Refused {
        path: path.to_owned(),
        reason: "it claims far more pages than its file and its WAL hold on the disk; \
                 VACUUM writes it anew",
    })
}
