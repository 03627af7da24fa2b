//! LTX files: the changed pages of a range of transactions, with checksums.
//!
//! [`Encoder`] and [`Decoder`] stream a file. To read one on several threads: [`parse_tail`] and
//! [`Index::parse`] say (and prove) where each page is, a [`PageDecoder`] per thread reads pages
//! in any order, and [`finish_crc`] proves the whole from the [`crate::Crc64`] of the parts.

mod decoder;
mod encoder;
mod error;
mod frames;
mod header;
mod index;
mod name;
mod order;
mod page;
mod trailer;
mod xxh32;

pub use decoder::Decoder;
pub use encoder::{EncodeError, Encoder, Written};
pub use error::{DecodeError, Fault};
pub use frames::{Frames, Made, PageEncoder};
pub use header::{Checksums, HEADER_BYTES, Header, HeaderFault, WalSpan};
pub use index::{Index, IndexEntry};
pub use name::{FileName, InvalidFileName, InvalidLevel, Level};
pub use order::OrderFault;
pub use page::{PageDecoder, frame_bytes_max};
pub use trailer::{TAIL_BYTES, TRAILER_BYTES, Tail, Trailer, finish_crc, parse_tail};

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod tests;
