//! A database file that comes as a stream, and the proof that all of it came.

use std::io::Write;

use sqlrep_format::{Crc64, PageSize, Timestamp, Txid};
use sqlrep_proto::v1;
use sqlrep_proto::v1::restore_response::Part;

use super::{Messages, convert};
use crate::database::Ownership;
use crate::failure::{Failure, Result};

/// The largest chunk that the contract allows.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What the bytes will be.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// The state it holds.
    pub(crate) txid: Txid,
    /// When that was captured.
    pub(crate) time: Option<Timestamp>,
    /// Page size.
    pub(crate) page_size: PageSize,
    /// Owner and mode of the live file.
    pub(crate) ownership: Option<Ownership>,
    /// What the agent worked around.
    pub(crate) warnings: Vec<String>,
}

/// A database file on its way.
#[derive(Debug)]
pub(crate) struct Download {
    header: Header,
    messages: Messages<v1::RestoreResponse>,
}

impl Download {
    /// Reads the header.
    pub(super) async fn begin(mut messages: Messages<v1::RestoreResponse>) -> Result<Self> {
        let first = messages.next().await?.and_then(|message| message.part);
        let Some(Part::Header(header)) = first else {
            return Err(convert::nonsense("a database without a header"));
        };
        let page_size = PageSize::new(header.page_size)
            .map_err(|error| convert::nonsense(&error.to_string()))?;
        if header.size_bytes == 0 || header.size_bytes % u64::from(page_size.get()) != 0 {
            return Err(convert::nonsense("a database of half a page"));
        }
        let header = Header {
            bytes: header.size_bytes,
            txid: convert::txid(header.txid)?,
            time: convert::time(header.timestamp),
            page_size,
            ownership: convert::ownership(header.ownership),
            warnings: header.warnings,
        };
        Ok(Self { header, messages })
    }

    /// What the bytes will be.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the bytes, and is content only when all came as they were sent.
    pub(crate) async fn write_to(
        mut self,
        file: &mut (dyn Write + Send),
        mut on: impl FnMut(u64, u64),
    ) -> Result<Header> {
        let total = self.header.bytes;
        let mut received: u64 = 0;
        let mut crc = Crc64::new();
        let end = loop {
            match self.messages.next().await?.map(|message| message.part) {
                Some(Some(Part::Chunk(chunk))) => {
                    received = received.saturating_add(chunk.len() as u64);
                    // Checked before anything is written: a stream without end fills no disk.
                    if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX || received > total {
                        return Err(convert::nonsense("more bytes than it announced"));
                    }
                    crc.update(&chunk);
                    file.write_all(&chunk).map_err(|error| {
                        Failure::failed("cannot write the restored file").caused_by(error)
                    })?;
                    on(received, total);
                }
                Some(Some(Part::End(end))) => break end,
                Some(Some(Part::Header(_)) | None) => {
                    return Err(convert::nonsense("a header in the middle of a database"));
                }
                None => {
                    return Err(Failure::failed(format!(
                        "the stream ended after {received} of {total} bytes"
                    ))
                    .hint("nothing was written; try again"));
                }
            }
        };
        if end.bytes_total != received || received != total {
            return Err(Failure::failed(format!(
                "{received} of {total} bytes came, {} were sent",
                end.bytes_total
            ))
            .hint("nothing was written; try again"));
        }
        if end.crc64 != crc.value() {
            return Err(Failure::failed(format!(
                "the bytes were changed on the way: checksum {:016x}, sent {:016x}",
                crc.value(),
                end.crc64
            ))
            .hint("nothing was written; try again"));
        }
        // An error may still follow the last message, and it counts.
        if self.messages.next().await?.is_some() {
            return Err(convert::nonsense("bytes after the end of a database"));
        }
        Ok(self.header)
    }
}
