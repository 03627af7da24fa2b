//! The write-ahead log: its header, its frames, the running checksum that chains them, and the
//! wal-index (`-shm`) that says how much of it counts.
//!
//! A frame counts only when its salts equal the header's **and** the running checksum over
//! everything before it agrees: [`Cursor`] checks both and moves only over frames that do.

mod checksum;
mod cursor;
mod header;
mod index;

pub use checksum::{ByteOrder, WalChecksum};
pub use cursor::{Cursor, Invalid};
pub use header::{FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header, ReadError, Salts};
pub use index::{INDEX_HEADER_BYTES, IndexError, IndexHeader};
