//! Any bytes as an LTX file: front to back and in pieces. Neither panics, and what the one takes
//! the other takes too, with the same pages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sqlrep_format::ltx::{
    DecodeError, Decoder, HEADER_BYTES, Header, Index, PageDecoder, TAIL_BYTES, finish_crc,
    parse_tail,
};
use sqlrep_format::{Checksum, Crc64, Pgno, page_checksum};

type Pages = Vec<(Pgno, Checksum)>;

fn stream(file: &[u8]) -> Result<Pages, DecodeError> {
    let mut decoder = Decoder::new(file)?;
    let mut page = vec![0; decoder.header().page_size.bytes()];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page_checksum(pgno, &page)));
    }
    decoder.finish()?;
    Ok(pages)
}

fn pieces(file: &[u8]) -> Option<Pages> {
    let header = Header::decode(file).ok()?;
    let tail = parse_tail(file.last_chunk::<TAIL_BYTES>()?, file.len() as u64).ok()?;
    let at = |offset: u64| usize::try_from(offset).expect("inside the file");
    let index_bytes = &file[at(tail.index_offset)..][..at(tail.index_bytes)];
    let index = Index::parse(index_bytes, &header, tail.index_offset).ok()?;
    let mut crc = Crc64::new();
    crc.update(&file[..HEADER_BYTES]);
    let mut page = vec![0; header.page_size.bytes()];
    let mut decoder = PageDecoder::new(header.page_size);
    let mut pages = Pages::new();
    let mut sum = Checksum::EMPTY;
    for entry in index.entries() {
        let frame = &file[at(entry.offset)..][..at(entry.bytes)];
        let pgno = decoder.decode(frame, &mut page, &mut crc).ok()?;
        if pgno != entry.pgno {
            return None;
        }
        let page = page_checksum(pgno, &page);
        sum = sum.combine(page);
        pages.push((pgno, page));
    }
    let file = finish_crc(crc, index_bytes, tail.trailer.post_apply);
    tail.trailer.check(&header, sum).ok()?;
    (file == tail.trailer.file).then_some(pages)
}

fuzz_target!(|file: &[u8]| {
    match (stream(file), pieces(file)) {
        (Ok(stream), pieces) => assert_eq!(Some(stream), pieces),
        // Pieces do not read the six bytes of the end marker; else they would agree here too.
        (Err(error), Some(_)) => assert!(error.is_corrupt()),
        (Err(_), None) => {}
    }
});
