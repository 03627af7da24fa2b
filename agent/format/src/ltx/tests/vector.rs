//! The test vector of the format's description, byte for byte, and single rules.

use std::io::{self, Write};

use super::super::foreign::{self, Shape};
use super::super::{EncodeError, FileName, HeaderFault, OrderFault, frame_bytes_max};
use super::*;

fn vector() -> (Header, Pages) {
    let header = Header {
        wal: WalSpan::CLAIM,
        node_id: 0,
        ..header(512, 2, TxidRange::snapshot(Txid::FIRST))
    };
    let first = (0..512_u32)
        .map(|i| u8::try_from(i % 256).unwrap())
        .collect();
    (header, vec![(pgno(1), first), (pgno(2), vec![0; 512])])
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn header_matches_the_test_vector() {
    let (header, _) = vector();
    let expected = [
        "4c54583100000002000002000000000200000000000000010000000000000001",
        "0000018bcfe5687b",
        &"00".repeat(8),
        "0000000000000020",
        &"00".repeat(44),
    ];
    assert_eq!(hex(&header.encode()), expected.concat());
    assert_eq!(Header::decode(&header.encode()).unwrap(), header);
}

#[test]
fn frame_variant_matches_the_test_vector() {
    let (header, pages) = vector();
    let file = foreign::file(&header, &pages, Shape::Frame);
    assert_eq!(file.len(), 1214);
    assert_eq!(
        hex(&file[100..123]),
        "0000000100000422 4d186440a7000200 80000102030405".replace(' ', "")
    );
    assert_eq!(hex(&file[633..637]), hex(&0xf319_d2c7_u32.to_le_bytes()));
    let tail =
        "00000000000001649904 02fd04990400 000000000000000a0000000000000000 8d05e8d2f3469d1d";
    assert_eq!(hex(&file[1174..]), tail.replace(' ', ""));
    assert_eq!(stream(&file).unwrap(), (header, pages.clone()));
    assert_eq!(pieces(&file).unwrap(), (header, pages));
}

#[test]
fn block_variant_matches_the_test_vector() {
    let (header, pages) = vector();
    let file = foreign::file(&header, &pages, Shape::Block);
    assert_eq!(file.len(), 1190);
    assert_eq!(
        hex(&file[100..116]),
        "000000010001000002 03f0fff2000102".replace(' ', "")
    );
    assert_eq!(hex(&file[1182..]), "a099948de470ad95");
    assert_eq!(stream(&file).unwrap(), (header, pages.clone()));
    assert_eq!(pieces(&file).unwrap(), (header, pages));
}

#[test]
fn encoder_stores_what_does_not_shrink_exactly_as_the_vector_does() {
    let noise: Vec<u8> = (0..512_u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0])
        .collect();
    let (header, _) = vector();
    let pages = vec![(pgno(1), noise.clone()), (pgno(2), noise)];
    let (file, written) = encode(&header, &pages);
    assert_eq!(file, foreign::file(&header, &pages, Shape::Frame));
    assert_eq!((written.bytes, written.pages), (1214, 2));
}

#[test]
fn encoder_writes_the_one_frame_shape_that_every_reader_takes() {
    let (header, pages) = vector();
    let (file, written) = encode(&header, &pages);
    assert!(file.len() < 600, "zeros and a repeated run compress");
    assert_eq!(file.len() as u64, written.bytes);
    assert_eq!(
        hex(&file[100..113]),
        "000000010000".to_owned() + "04224d186440a7"
    );
    let block = usize::from(file[113]) + 256 * usize::from(file[114]);
    assert_eq!(hex(&file[117 + block..121 + block]), "00000000");
    assert_eq!(
        hex(&file[121 + block..125 + block]),
        hex(&0xf319_d2c7_u32.to_le_bytes())
    );
    assert_eq!(stream(&file).unwrap(), (header, pages));
}

#[test]
fn a_file_without_pages_has_an_index_of_one_byte() {
    let header = header(4096, 3, range(5, 5));
    let (file, written) = encode(&header, &Pages::new());
    assert_eq!((written.bytes, written.pages), (131, 0));
    assert_eq!(stream(&file).unwrap(), (header, Pages::new()));
    assert_eq!(pieces(&file).unwrap(), (header, Pages::new()));
}

#[test]
fn encoder_refuses_what_no_reader_takes() {
    let page = [0; 512];
    let order = |error| match error {
        Err(EncodeError::Order(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let mut snapshot = Encoder::new(Vec::new(), &header(512, 3, range(1, 4))).unwrap();
    let gap = OrderFault::Gap {
        expected: pgno(1),
        found: pgno(2),
    };
    assert_eq!(order(snapshot.page(pgno(2), &page)), gap);
    snapshot.page(pgno(1), &page).unwrap();
    snapshot.page(pgno(2), &page).unwrap();
    let again = OrderFault::NotAscending {
        previous: pgno(2),
        found: pgno(2),
    };
    assert_eq!(order(snapshot.page(pgno(2), &page)), again);
    let incomplete = OrderFault::Incomplete { expected: pgno(3) };
    assert_eq!(order(snapshot.finish().map(|_| ())), incomplete);

    let mut delta = Encoder::new(Vec::new(), &header(65_536, 16_386, range(2, 2))).unwrap();
    let page = vec![0; 65_536];
    let lock = OrderFault::LockPage {
        found: pgno(16_385),
    };
    assert_eq!(order(delta.page(pgno(16_385), &page)), lock);
    assert!(matches!(
        order(delta.page(pgno(16_387), &page)),
        OrderFault::BeyondCommit { .. }
    ));
    assert!(matches!(
        delta.page(pgno(3), &[0; 512]),
        Err(EncodeError::PageBytes { .. })
    ));
    delta.page(pgno(16_386), &page).unwrap();
    delta.finish().unwrap();
}

#[test]
fn encoder_refuses_headers_that_litestream_refuses() {
    let fault = |header: Header| match Encoder::new(Vec::new(), &header) {
        Err(EncodeError::Header(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let good = header(512, 1, range(2, 2));
    let tracked = Checksums::Tracked {
        pre: Some(Checksum::EMPTY),
    };
    assert_eq!(
        fault(Header {
            checksums: tracked,
            ..good
        }),
        HeaderFault::Tracked
    );
    let placeless = WalSpan {
        offset: 0,
        size: 1,
        salts: Salts::default(),
    };
    assert!(matches!(
        fault(Header {
            wal: placeless,
            ..good
        }),
        HeaderFault::WalSpan { .. }
    ));
    let salted = WalSpan {
        salts: Salts { salt1: 1, salt2: 0 },
        ..WalSpan::NONE
    };
    assert!(matches!(
        fault(Header {
            wal: salted,
            ..good
        }),
        HeaderFault::WalSpan { .. }
    ));
    let negative = WalSpan {
        size: 1 << 63,
        ..WalSpan::CLAIM
    };
    assert!(matches!(
        fault(Header {
            wal: negative,
            ..good
        }),
        HeaderFault::WalSpan { .. }
    ));
}

#[test]
fn encoder_is_broken_after_a_failed_write() {
    struct Short(usize);
    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut encoder = Encoder::new(Short(130), &header(512, 9, range(2, 2))).unwrap();
    let noise: Vec<u8> = (0..=255).rev().chain(0..=255).collect();
    assert!(matches!(
        encoder.page(pgno(1), &noise),
        Err(EncodeError::Io { offset: 100, .. })
    ));
    assert!(matches!(
        encoder.page(pgno(2), &[0; 512]),
        Err(EncodeError::Broken)
    ));
    assert!(matches!(encoder.finish(), Err(EncodeError::Broken)));
}

#[test]
fn headers_that_break_a_rule_are_refused() {
    let good = header(4096, 3, range(2, 5)).encode();
    let fault = |at: usize, bytes: &[u8]| {
        let mut header = good;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        match Header::decode(&header) {
            Err(DecodeError::Corrupt {
                fault: Fault::Header(fault),
                ..
            }) => fault,
            other => panic!("{at} {bytes:?}: {other:?}"),
        }
    };
    assert!(matches!(fault(0, b"LTX2"), HeaderFault::Magic { .. }));
    assert!(matches!(fault(4, &[0, 0, 0, 3]), HeaderFault::Flags { .. }));
    assert!(matches!(fault(8, &[0, 0, 0, 1]), HeaderFault::PageSize(_)));
    assert!(matches!(fault(12, &[0; 4]), HeaderFault::Commit));
    assert!(matches!(fault(16, &[0; 8]), HeaderFault::Range { .. }));
    assert!(matches!(
        fault(24, &[0, 0, 0, 0, 0, 0, 0, 1]),
        HeaderFault::Range { .. }
    ));
    assert!(matches!(fault(40, &[0x80]), HeaderFault::PreApply { .. }));
    assert!(matches!(fault(4, &[0; 4]), HeaderFault::PreApply { .. })); // tracked without one
    assert!(matches!(fault(48, &[0x80]), HeaderFault::WalSpan { .. }));
    assert!(matches!(fault(48, &[0; 8]), HeaderFault::WalSpan { .. }));
    assert!(Header::decode(&good[..99]).unwrap_err().is_truncated());
}

#[test]
fn decoder_refuses_pages_out_of_order() {
    let page = vec![1; 512];
    let numbered = |numbers: &[u32]| -> Pages {
        numbers
            .iter()
            .map(|number| (pgno(*number), page.clone()))
            .collect()
    };
    let faults = |range: TxidRange, numbers: &[u32]| {
        let file = foreign::file(&header(512, 3, range), &numbered(numbers), Shape::Frame);
        let fault = |result| match result {
            Err(DecodeError::Corrupt {
                fault: Fault::Order(fault),
                ..
            }) => fault,
            other => panic!("{numbers:?}: {other:?}"),
        };
        let (one, two) = (fault(stream(&file)), fault(pieces(&file)));
        assert_eq!(one, two);
        one
    };
    assert!(matches!(
        faults(range(2, 2), &[2, 1]),
        OrderFault::NotAscending { .. }
    ));
    assert!(matches!(
        faults(range(2, 2), &[2, 2]),
        OrderFault::NotAscending { .. }
    ));
    assert!(matches!(
        faults(range(2, 2), &[2, 4]),
        OrderFault::BeyondCommit { .. }
    ));
    assert!(matches!(
        faults(range(1, 2), &[2, 3]),
        OrderFault::Gap { .. }
    ));
    assert!(matches!(
        faults(range(1, 2), &[1, 3]),
        OrderFault::Gap { .. }
    ));
    assert!(matches!(
        faults(range(1, 2), &[1, 2]),
        OrderFault::Incomplete { .. }
    ));
    assert!(matches!(
        faults(range(1, 2), &[]),
        OrderFault::Incomplete { .. }
    ));
}

#[test]
fn decoder_proves_the_checksum_of_a_tracked_snapshot() {
    let tracked = |pre| Checksums::Tracked { pre };
    let (header, pages) = vector();
    let header = Header {
        checksums: tracked(None),
        ..header
    };
    for shape in Shape::ALL {
        let file = foreign::file(&header, &pages, shape);
        assert_eq!(stream(&file).unwrap(), (header, pages.clone()));
        assert_eq!(pieces(&file).unwrap(), (header, pages.clone()));
    }
    // A wrong sum under a right file checksum, as a faulty writer would leave it.
    let mut file = foreign::file(&header, &pages, Shape::Frame);
    let post = file.len() - 16;
    file[post + 3] ^= 1;
    reseal(&mut file, &pages);
    for result in [stream(&file), pieces(&file)] {
        let error = result.unwrap_err();
        let fault = |error: &DecodeError| matches!(error, DecodeError::Corrupt { fault, .. } if matches!(fault, Fault::PostApply { .. }));
        assert!(fault(&error), "{error}");
    }
    // Between the sums of a later file lie pages that it does not hold.
    let later = Header {
        range: range(2, 2),
        checksums: tracked(Some(Checksum::EMPTY)),
        ..header
    };
    let file = foreign::file(&later, &pages[1..], Shape::Frame);
    assert_eq!(stream(&file).unwrap().0, later);
}

/// Puts the right file checksum on a file of stored frames whose tail was changed.
fn reseal(file: &mut Vec<u8>, pages: &Pages) {
    let mut crc = Crc64::new();
    crc.update(&file[..100]);
    let mut at = 100;
    for (_, page) in pages {
        crc.update(&file[at..at + 6]);
        crc.update(page);
        at += 25 + page.len();
    }
    let end = file.len() - 8;
    crc.update(&file[at..end]);
    file.truncate(end);
    file.extend(Checksum::from_crc(crc.value()).get().to_be_bytes());
}

#[test]
fn post_apply_checksum_of_an_untracked_file_is_refused() {
    let (header, pages) = vector();
    let mut file = foreign::file(&header, &pages, Shape::Frame);
    let post = file.len() - 16;
    file[post] |= 0x80;
    reseal(&mut file, &pages);
    for result in [stream(&file), pieces(&file)] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("post-apply"), "{error}");
    }
}

#[test]
fn a_wrong_index_under_a_right_checksum_is_refused() {
    let (header, pages) = vector();
    let good = foreign::file(&header, &pages, Shape::Frame);
    let index = good.len() - 24 - 10;
    for (at, name) in [
        (1, "offset"),
        (2, "offset"),
        (3, "length"),
        (6, "offset"),
        (8, "length"),
    ] {
        let mut file = good.clone();
        file[index + at] ^= 1;
        reseal(&mut file, &pages);
        assert!(stream(&file).unwrap_err().is_corrupt(), "{name} {at}");
        assert!(pieces(&file).unwrap_err().is_corrupt(), "{name} {at}");
    }
    let mut file = good;
    let size = file.len() - 17;
    file[size] ^= 1;
    reseal(&mut file, &pages);
    let error = stream(&file).unwrap_err().to_string();
    assert!(
        error.contains("index is said to have 11 bytes, it has 10"),
        "{error}"
    );
    assert!(pieces(&file).unwrap_err().is_corrupt());
}

#[test]
fn decoder_finishes_what_was_not_read() {
    let (header, pages) = vector();
    let mut file = foreign::file(&header, &pages, Shape::Frame);
    Decoder::new(&file[..]).unwrap().finish().unwrap();
    file[500] ^= 1;
    assert!(
        Decoder::new(&file[..])
            .unwrap()
            .finish()
            .unwrap_err()
            .is_corrupt()
    );
}

#[test]
fn a_buffer_of_another_size_is_the_callers_fault() {
    let (header, pages) = vector();
    let file = foreign::file(&header, &pages, Shape::Frame);
    let mut decoder = Decoder::new(&file[..]).unwrap();
    let error = decoder.next_page(&mut [0; 511]).unwrap_err();
    assert!(!error.is_corrupt() && !error.is_truncated(), "{error}");
    let mut crc = Crc64::new();
    let mut pages = PageDecoder::new(header.page_size);
    let error = pages
        .decode(&file[100..637], &mut [0; 1024], &mut crc)
        .unwrap_err();
    assert!(!error.is_corrupt(), "{error}");
}

#[test]
fn an_index_cannot_make_a_reader_allocate_more_than_a_page_needs() {
    let header = header(512, 9, range(2, 2));
    let max = frame_bytes_max(header.page_size);
    let mut index = vec![1, 100];
    super::super::index::put_uvarint(&mut index, max + 1);
    index.push(0);
    let error = Index::parse(&index, &header, 100 + max + 1 + 6).unwrap_err();
    assert!(error.to_string().contains("are possible"), "{error}");
}

#[test]
fn file_names_say_what_the_header_says() {
    assert_eq!(
        FileName(range(1, 0xab)).to_string(),
        "0000000000000001-00000000000000ab.ltx"
    );
}

#[test]
fn errors_say_where_and_what() {
    let (header, pages) = vector();
    let mut file = foreign::file(&header, &pages, Shape::Frame);
    file[700] ^= 0x40;
    assert_eq!(
        stream(&file).unwrap_err().to_string(),
        "damaged at byte 1170: page content has checksum 32c153de, computed cc0cd577"
    );
    let cut = stream(&file[..650]).unwrap_err();
    assert_eq!(
        cut.to_string(),
        "the file is truncated: it ends at byte 650 where 4 more bytes belong"
    );
}
