//! Whole files: written, read both ways, damaged.

mod golden;
mod property;
mod vector;

use super::{
    Checksums, DecodeError, Decoder, Encoder, Fault, Header, Index, PageDecoder, TAIL_BYTES,
    WalSpan, Written, finish_crc, parse_tail,
};
use crate::wal::Salts;
use crate::{
    Checksum, Crc64, PageCount, PageSize, Pgno, Timestamp, Txid, TxidRange, page_checksum,
};

/// Pages by number, ascending.
pub(super) type Pages = Vec<(Pgno, Vec<u8>)>;

pub(super) fn pgno(number: u32) -> Pgno {
    Pgno::new(number).unwrap()
}

pub(super) fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

pub(super) fn header(page_size: u32, commit: u32, range: TxidRange) -> Header {
    Header {
        page_size: PageSize::new(page_size).unwrap(),
        commit: PageCount::new(commit).unwrap(),
        range,
        timestamp: Timestamp::from_millis(1_700_000_000_123),
        checksums: Checksums::None,
        wal: WalSpan {
            offset: 4152,
            size: 8240,
            salts: Salts { salt1: 1, salt2: 2 },
        },
        node_id: 7,
    }
}

pub(super) fn encode(header: &Header, pages: &Pages) -> (Vec<u8>, Written) {
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (pgno, page) in pages {
        encoder.page(*pgno, page).unwrap();
    }
    encoder.finish().unwrap()
}

/// Reads a file from front to back.
pub(super) fn stream(file: &[u8]) -> Result<(Header, Pages), DecodeError> {
    let mut decoder = Decoder::new(file)?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size.bytes()];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    decoder.finish()?;
    Ok((header, pages))
}

/// The frames of a file as they lie in it.
pub(super) fn frames(file: &[u8]) -> Vec<(Pgno, &[u8])> {
    let header = Header::decode(file).unwrap();
    let tail = parse_tail(file.last_chunk().unwrap(), file.len() as u64).unwrap();
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let index = &file[at(tail.index_offset)..at(tail.index_offset + tail.index_bytes)];
    let index = Index::parse(index, &header, tail.index_offset).unwrap();
    let frame = |entry: &super::IndexEntry| {
        let frame = &file[at(entry.offset)..at(entry.offset + entry.bytes)];
        (entry.pgno, frame)
    };
    index.entries().iter().map(frame).collect()
}

/// Reads a file as a parallel restore does: the pieces in another order than they lie in.
pub(super) fn pieces(file: &[u8]) -> Result<(Header, Pages), DecodeError> {
    let header = Header::decode(file)?;
    let Some(tail) = file.last_chunk::<TAIL_BYTES>() else {
        return Err(DecodeError::Truncated {
            offset: file.len() as u64,
            missing: 1,
        });
    };
    let tail = parse_tail(tail, file.len() as u64)?;
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let index_bytes = &file[at(tail.index_offset)..at(tail.index_offset + tail.index_bytes)];
    let index = Index::parse(index_bytes, &header, tail.index_offset)?;

    let (first, second) = index.entries().split_at(index.entries().len() / 2);
    let mut pages = Pages::new();
    let mut read = |entries: &[super::IndexEntry]| {
        let mut crc = Crc64::new();
        let mut decoder = PageDecoder::new(header.page_size);
        for entry in entries {
            let mut page = vec![0; header.page_size.bytes()];
            let frame = &file[at(entry.offset)..at(entry.offset + entry.bytes)];
            let found = decoder
                .decode(frame, &mut page, &mut crc)
                .map_err(|error| error.within(entry.offset))?;
            if found != entry.pgno {
                return Err(DecodeError::corrupt(entry.offset, Fault::IndexMismatch));
            }
            pages.push((found, page));
        }
        Ok(crc)
    };
    let second = read(second)?;
    let first = read(first)?;
    pages.sort();
    let mut crc = Crc64::new();
    crc.update(&file[..super::HEADER_BYTES]);
    for part in [&first, &second] {
        crc = Crc64::resume(Crc64::combine(crc.value(), part.value(), part.bytes()));
    }
    let expected = finish_crc(crc, index_bytes, tail.trailer.post_apply);
    let found = tail.trailer.file;
    if expected != found {
        return Err(DecodeError::corrupt(
            0,
            Fault::FileChecksum {
                expected,
                found: found.get(),
            },
        ));
    }
    let sum = pages.iter().fold(Checksum::EMPTY, |sum, (pgno, page)| {
        sum.combine(page_checksum(*pgno, page))
    });
    tail.trailer
        .check(&header, sum)
        .map_err(|fault| DecodeError::corrupt(0, fault))?;
    Ok((header, pages))
}
