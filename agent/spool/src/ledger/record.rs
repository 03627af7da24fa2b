//! The records of the ledger as bytes. Each ends in a CRC over the database's name and the
//! record, so that no damage, and no mix-up of names, turns into a wrong position.

use sqlrep_format::wal::{Salts, WalChecksum};
use sqlrep_format::{Checksum, Crc64, PageCount, PageSize, Timestamp, Txid};

use crate::{Position, WalPlace};

/// `checksum` and `generation` mean something.
const KNOWN: u8 = 1;
/// The place in the WAL means something.
const WAL: u8 = 2;
/// The running checksum of the WAL means something.
const WAL_CHECKSUM: u8 = 4;
/// The position is that of an L0 file with this digest.
const FILE: u8 = 8;
/// The next file must hold every page.
const FULL: u8 = 16;

/// A position as the ledger keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The position. Its checksum says whether page checksums are known.
    pub(crate) position: Position,
    /// Counts the lineages that this spool has followed; a record of an older one is void.
    pub(crate) epoch: u64,
    /// Which generation of chunks holds the page checksums.
    pub(crate) generation: u32,
    /// The file checksum of the L0 file at the position; `None` for a position without a file.
    pub(crate) digest: Option<Checksum>,
    /// The position stands in for a lost file: the next file must hold every page.
    pub(crate) must_be_full: bool,
}

impl Record {
    /// The record as bytes, bound to `name`.
    pub(crate) fn encode(&self, name: &str) -> Vec<u8> {
        let at = &self.position;
        let place = at.wal.unwrap_or(WalPlace {
            salts: Salts { salt1: 0, salt2: 0 },
            frames: 0,
            checksum: None,
        });
        let running = place.checksum.unwrap_or(WalChecksum { s0: 0, s1: 0 });
        let flags = [
            (at.checksum.is_some(), KNOWN),
            (at.wal.is_some(), WAL),
            (place.checksum.is_some(), WAL_CHECKSUM),
            (self.digest.is_some(), FILE),
            (self.must_be_full, FULL),
        ];
        let mut out = vec![
            flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum::<u8>(),
        ];
        out.extend(self.epoch.to_be_bytes());
        out.extend(at.txid.get().to_be_bytes());
        out.extend(at.timestamp.millis().to_be_bytes());
        out.extend(at.commit.get().to_be_bytes());
        out.extend(at.page_size.get().to_be_bytes());
        out.extend(self.generation.to_be_bytes());
        out.extend(at.checksum.map_or(0, Checksum::get).to_be_bytes());
        for word in [
            place.salts.salt1,
            place.salts.salt2,
            place.frames,
            running.s0,
            running.s1,
        ] {
            out.extend(word.to_be_bytes());
        }
        out.extend(self.digest.map_or(0, Checksum::get).to_be_bytes());
        seal(name, out)
    }

    /// `None` when the bytes are not a whole record of `name`.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(unseal(name, bytes)?);
        let flags = reader.u8()?;
        let epoch = reader.u64()?;
        let txid = Txid::new(reader.u64()?)?;
        let timestamp = Timestamp::from_millis(reader.u64()?.cast_signed());
        let commit = PageCount::new(reader.u32()?)?;
        let page_size = PageSize::new(reader.u32()?).ok()?;
        let generation = reader.u32()?;
        let checksum = reader.u64()?;
        let salts = Salts {
            salt1: reader.u32()?,
            salt2: reader.u32()?,
        };
        let frames = reader.u32()?;
        let running = WalChecksum {
            s0: reader.u32()?,
            s1: reader.u32()?,
        };
        let digest = reader.u64()?;
        let has = |bit| flags & bit != 0;
        let checksum = if has(KNOWN) {
            Some(Checksum::new(checksum)?)
        } else {
            None
        };
        let digest = if has(FILE) {
            Some(Checksum::new(digest)?)
        } else {
            None
        };
        let wal = has(WAL).then(|| WalPlace {
            salts,
            frames,
            checksum: has(WAL_CHECKSUM).then_some(running),
        });
        reader.0.is_empty().then_some(Self {
            position: Position {
                txid,
                timestamp,
                commit,
                page_size,
                wal,
                checksum,
            },
            epoch,
            generation,
            digest,
            must_be_full: has(FULL),
        })
    }
}

/// The last TXID that was shipped, as bytes.
pub(crate) fn encode_acked(name: &str, txid: Txid) -> Vec<u8> {
    seal(name, txid.get().to_be_bytes().to_vec())
}

/// Reads what [`encode_acked`] wrote.
pub(crate) fn decode_acked(name: &str, bytes: &[u8]) -> Option<Txid> {
    let mut reader = Reader(unseal(name, bytes)?);
    let txid = Txid::new(reader.u64()?)?;
    reader.0.is_empty().then_some(txid)
}

/// Appends the CRC.
fn seal(name: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc(name, &bytes);
    bytes.extend(crc.to_be_bytes());
    bytes
}

/// Checks the CRC and cuts it off.
fn unseal<'a>(name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (body, found) = bytes.split_last_chunk::<8>()?;
    (crc(name, body).to_be_bytes() == *found).then_some(body)
}

/// Over name and body.
fn crc(name: &str, body: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(name.as_bytes());
    crc.update(body);
    crc.value()
}

/// Takes numbers off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            position: Position {
                txid: Txid::new(7).unwrap(),
                timestamp: Timestamp::from_millis(-5),
                commit: PageCount::new(9).unwrap(),
                page_size: PageSize::MAX,
                wal: Some(WalPlace {
                    salts: Salts { salt1: 1, salt2: 2 },
                    frames: 3,
                    checksum: Some(WalChecksum { s0: 4, s1: 5 }),
                }),
                checksum: Some(Checksum::EMPTY),
            },
            epoch: 6,
            generation: 8,
            digest: Some(Checksum::EMPTY),
            must_be_full: true,
        }
    }

    #[test]
    fn a_record_reads_back() {
        let full = record();
        assert_eq!(Record::decode("a", &full.encode("a")), Some(full));
        let mut bare = full;
        bare.position.wal = None;
        bare.position.checksum = None;
        bare.digest = None;
        bare.must_be_full = false;
        assert_eq!(Record::decode("a", &bare.encode("a")), Some(bare));
        let txid = Txid::FIRST;
        assert_eq!(decode_acked("a", &encode_acked("a", txid)), Some(txid));
    }

    #[test]
    fn damage_and_mixed_up_names_are_seen() {
        let bytes = record().encode("a");
        assert_eq!(Record::decode("b", &bytes), None);
        assert_eq!(decode_acked("b", &encode_acked("a", Txid::FIRST)), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Record::decode("a", &damaged), None, "byte {at}");
            assert_eq!(Record::decode("a", &bytes[..at]), None, "length {at}");
        }
    }
}
