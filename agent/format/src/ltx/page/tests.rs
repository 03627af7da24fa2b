//! LZ4 frames as other writers make them, and as nobody should.

use super::super::foreign::literals;
use super::super::frames::{Frames, PageEncoder};
use super::*;

const PAGE: PageSize = PageSize::MIN;

fn page() -> Vec<u8> {
    (0..PAGE.get()).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect()
}

/// A page with the given blocks: lengths as they stand in the file, and their bytes.
fn frame(flags: u8, block: u8, blocks: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 9, 0, 0, 0x04, 0x22, 0x4d, 0x18, flags, block];
    out.push(XxHash32::oneshot(0, &[flags, block]).to_le_bytes()[1]);
    for (length, bytes) in blocks {
        out.extend(length.to_le_bytes());
        out.extend(bytes);
    }
    out.extend([0; 4]);
    out.extend(XxHash32::oneshot(0, &page()).to_le_bytes());
    out
}

fn stored(bytes: &[u8]) -> (u32, Vec<u8>) {
    (u32::try_from(bytes.len()).unwrap() | STORED, bytes.to_vec())
}

fn decode(frame: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = vec![0; PAGE.bytes()];
    let pgno = PageDecoder::new(PAGE).decode(frame, &mut out, &mut Crc64::new())?;
    assert_eq!(pgno.get(), 9);
    Ok(out)
}

#[test]
fn frames_of_many_blocks_are_read() {
    let page = page();
    assert_eq!(decode(&frame(0x64, 0x40, &[stored(&page)])).unwrap(), page);
    let bytes: Vec<_> = page.iter().map(|byte| stored(&[*byte])).collect();
    assert_eq!(decode(&frame(0x64, 0x70, &bytes)).unwrap(), page);
    let (one, two) = page.split_at(100);
    let two = literals(two);
    let mixed = [stored(one), (u32::try_from(two.len()).unwrap(), two)];
    assert_eq!(decode(&frame(0x44, 0x50, &mixed)).unwrap(), page);
}

#[test]
fn frames_that_are_not_one_page_are_refused() {
    let page = page();
    let short = frame(0x64, 0x40, &[stored(&page[1..])]);
    let long = frame(0x64, 0x40, &[stored(&[&page[..], &[0]].concat())]);
    let second = frame(0x64, 0x40, &[stored(&page), stored(&[0])]);
    let empty = frame(0x64, 0x40, &[(STORED, vec![]), stored(&page)]);
    let nothing = frame(0x64, 0x40, &[(1, vec![0]), stored(&page)]);
    let huge = frame(0x64, 0x70, &[(4 << 20, vec![0; 64])]);
    for (name, bytes) in [
        ("short", short),
        ("long", long),
        ("second", second),
        ("empty", empty),
        ("nothing", nothing),
        ("huge", huge),
        ("none", frame(0x64, 0x40, &[])),
    ] {
        let error = decode(&bytes).unwrap_err();
        assert!(
            matches!(error, DecodeError::Corrupt { .. }),
            "{name}: {error}"
        );
    }
    // Without a content checksum it is the length alone that tells.
    for length in [511, 513] {
        let bytes: Vec<u8> = page.iter().copied().cycle().take(length).collect();
        let bare = frame(0x60, 0x40, &[stored(&bytes)]);
        let error = decode(&bare[..bare.len() - 4]).unwrap_err();
        assert!(error.to_string().contains(&length.to_string()), "{error}");
        assert!(error.is_corrupt() && !error.is_truncated(), "{error}");
    }
    let followed = [&frame(0x64, 0x40, &[stored(&page)])[..], &[0]].concat();
    let error = decode(&followed).unwrap_err().to_string();
    assert!(error.contains("1 bytes follow"), "{error}");
}

#[test]
fn descriptors_beyond_the_format_are_refused() {
    let page = page();
    for (flags, block) in [
        (0x24, 0x40), // version 0
        (0xa4, 0x40), // version 2
        (0x66, 0x40), // reserved bit
        (0x65, 0x40), // dictionary
        (0x64, 0x30), // blocks of an unknown size
        (0x64, 0xc0), // reserved bit
        (0x64, 0x41), // reserved bits
    ] {
        let error = decode(&frame(flags, block, &[stored(&page)])).unwrap_err();
        let DecodeError::Corrupt {
            offset: 10,
            fault: Fault::Lz4Flags { .. },
        } = error
        else {
            panic!("{flags:#x} {block:#x}: {error}");
        };
    }
    let mut bad = frame(0x64, 0x40, &[stored(&page)]);
    bad[12] ^= 1;
    assert!(
        decode(&bad)
            .unwrap_err()
            .to_string()
            .contains("descriptor has checksum")
    );
}

#[test]
fn block_checksums_are_proven() {
    let page = page();
    let block = |checksum: u32| {
        let (length, mut bytes) = stored(&page);
        bytes.extend(checksum.to_le_bytes());
        decode(&frame(0x74, 0x40, &[(length, bytes)]))
    };
    let right = XxHash32::oneshot(0, &page);
    assert_eq!(block(right).unwrap(), page);
    let error = block(right ^ 1).unwrap_err().to_string();
    assert!(error.contains("page content has checksum"), "{error}");
}

#[test]
fn unknown_page_flags_are_refused() {
    let mut bytes = frame(0x64, 0x40, &[stored(&page())]);
    for flags in [2_u16, 3, 0x100, u16::MAX] {
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        assert!(
            decode(&bytes)
                .unwrap_err()
                .to_string()
                .contains("unknown flags")
        );
    }
    // An end marker with flags is none.
    assert!(
        decode(&[0, 0, 0, 0, 0, 1])
            .unwrap_err()
            .to_string()
            .contains("unknown flags")
    );
    assert!(decode(&END_MARKER).unwrap_err().is_corrupt());
}

#[test]
fn blocks_are_bounded_by_the_page() {
    let block = |bytes: &[u8], length: u32| {
        let mut out = vec![0, 0, 0, 9, 0, 1];
        out.extend(length.to_be_bytes());
        out.extend(bytes);
        decode(&out)
    };
    let page = page();
    let good = literals(&page);
    let length = u32::try_from(good.len()).unwrap();
    assert_eq!(block(&good, length).unwrap(), page);
    assert!(
        block(&good, u32::MAX)
            .unwrap_err()
            .to_string()
            .contains("LZ4 block of")
    );
    let short = literals(&page[1..]);
    let error = block(&short, u32::try_from(short.len()).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("content of 511 bytes"),
        "{error}"
    );
    let long = literals(&[&page[..], &[0]].concat());
    assert!(
        block(&long, u32::try_from(long.len()).unwrap())
            .unwrap_err()
            .is_corrupt()
    );
    assert!(block(&[], 0).unwrap_err().is_corrupt());
}

#[test]
fn the_largest_compressible_and_incompressible_pages_round_trip() {
    for size in [PageSize::MIN, PageSize::MAX] {
        let mut writer = PageEncoder::new(size);
        let mut frames = Frames::default();
        let mut decoder = PageDecoder::new(size);
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..size.get())
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[6]
            })
            .collect();
        // Twice, so that the second page meets the traces of the first in the buffers.
        for page in [noise.clone(), vec![0; size.bytes()], noise] {
            let mut crc = [Crc64::new(), Crc64::new()];
            let [ours, theirs] = &mut crc;
            frames.clear();
            writer.encode(Pgno::FIRST, &page, &mut frames);
            let frame = frames.bytes();
            let join = Join::new(page.len() as u64);
            cover_frame(Pgno::FIRST, Crc64::of(&page), &join, ours);
            let mut out = vec![1; size.bytes()];
            assert_eq!(
                decoder.decode(frame, &mut out, theirs).unwrap(),
                Pgno::FIRST
            );
            assert_eq!(out, page);
            assert_eq!(ours.value(), theirs.value());
            assert!(frame.len() as u64 <= frame_bytes_max(size));
        }
    }
}
