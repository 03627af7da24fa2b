//! Any bytes as a WAL, a wal-index and a database header. Nothing panics, a cursor moves only over
//! what is there, and one that is resumed sees the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sqlrep_format::DatabaseHeader;
use sqlrep_format::wal::{Cursor, Header, IndexHeader};

fuzz_target!(|bytes: &[u8]| {
    let _: Result<_, _> = DatabaseHeader::parse(bytes);
    let _: Result<_, _> = IndexHeader::parse(bytes);
    let Some(Ok(header)) = bytes.first_chunk().map(Header::parse) else {
        return;
    };
    let mut cursor = Cursor::start(&header);
    loop {
        let at = usize::try_from(cursor.offset()).expect("inside the file");
        let rest = bytes.get(at..).unwrap_or_default();
        let frame = &rest[..rest.len().min(cursor.frame_bytes())];
        let mut resumed = Cursor::resume(&header, cursor.frames(), cursor.checksum());
        let step = cursor.next(frame);
        assert_eq!(resumed.next(frame), step);
        assert_eq!(resumed, cursor);
        if step.is_err() {
            assert_eq!(cursor.offset(), at as u64);
            break;
        }
        assert_eq!(cursor.offset(), (at + frame.len()) as u64);
    }
});
