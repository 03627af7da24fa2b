//! Writes LTX files for tests without any code of the encoder, from the format's description
//! alone: stored pages only, but in every shape that a reader must take.

use twox_hash::XxHash32;

use super::Header;
use crate::{Checksum, Crc64, Pgno, page_checksum};

/// How a page is put into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The LZ4 frame that 0.5.0 to 0.5.15 write, stored.
    Frame,
    /// The LZ4 block that 0.5.16 and later write, literals only.
    Block,
    /// A frame of several blocks, linked, with block checksums and the content's size.
    LinkedBlocks,
    /// A frame without content checksum.
    Bare,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [Self::Frame, Self::Block, Self::LinkedBlocks, Self::Bare];
}

/// The bytes of a file of these pages.
pub(crate) fn file(header: &Header, pages: &[(Pgno, Vec<u8>)], shape: Shape) -> Vec<u8> {
    let mut out = header.encode().to_vec();
    let mut hashed = out.clone();
    let mut index = Vec::new();
    let mut rolling = Checksum::EMPTY;
    for (pgno, page) in pages {
        let begin = out.len();
        let head = [
            &pgno.get().to_be_bytes()[..],
            &[0, u8::from(shape == Shape::Block)],
        ]
        .concat();
        hashed.extend(&head);
        out.extend(&head);
        match shape {
            Shape::Block => {
                let block = literals(page);
                let length = u32::try_from(block.len()).unwrap().to_be_bytes();
                hashed.extend(length);
                out.extend(length);
                out.extend(block);
            }
            Shape::Frame => out.extend(frame(page, 0x64)),
            Shape::Bare => out.extend(frame(page, 0x60)),
            Shape::LinkedBlocks => out.extend(linked(page)),
        }
        hashed.extend(page);
        rolling = rolling.combine(page_checksum(*pgno, page));
        for value in [
            u64::from(pgno.get()),
            begin as u64,
            (out.len() - begin) as u64,
        ] {
            uvarint(&mut index, value);
        }
    }
    index.push(0);
    let tracked = header.checksums != super::Checksums::None;
    let mut tail = vec![0; 6];
    tail.extend(&index);
    tail.extend((index.len() as u64).to_be_bytes());
    tail.extend((if tracked { rolling.get() } else { 0 }).to_be_bytes());
    hashed.extend(&tail);
    out.extend(&tail);
    let mut crc = Crc64::new();
    crc.update(&hashed);
    out.extend(Checksum::from_crc(crc.value()).get().to_be_bytes());
    out
}

fn uvarint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let group = u8::try_from(value % 128).unwrap();
        value /= 128;
        if value == 0 {
            out.push(group);
            return;
        }
        out.push(group | 128);
    }
}

/// One LZ4 block of literals.
pub(crate) fn literals(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if bytes.len() < 15 {
        out.push(u8::try_from(bytes.len()).unwrap() << 4);
    } else {
        out.push(0xf0);
        let mut rest = bytes.len() - 15;
        while rest >= 255 {
            out.push(255);
            rest -= 255;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend(bytes);
    out
}

/// An LZ4 frame of one stored block.
fn frame(page: &[u8], flags: u8) -> Vec<u8> {
    let mut out = vec![0x04, 0x22, 0x4d, 0x18];
    out.extend(descriptor(&[flags, 0x40]));
    out.extend((u32::try_from(page.len()).unwrap() | 1 << 31).to_le_bytes());
    out.extend(page);
    out.extend([0; 4]);
    if flags & 4 != 0 {
        out.extend(XxHash32::oneshot(0, page).to_le_bytes());
    }
    out
}

/// An LZ4 frame of linked blocks: the first third stored, the second as literals, and the last as
/// a copy of what stands one third earlier where it equals that, else as literals.
fn linked(page: &[u8]) -> Vec<u8> {
    let third = page.len() / 3;
    let (one, rest) = page.split_at(third);
    let (two, three) = rest.split_at(third);
    let mut out = vec![0x04, 0x22, 0x4d, 0x18];
    let mut described = vec![0x5c, 0x70];
    described.extend((page.len() as u64).to_le_bytes());
    out.extend(descriptor(&described));
    let stored = 1_u32 << 31;
    for (flag, block) in [
        (stored, one.to_vec()),
        (0, literals(two)),
        (0, repeated(two, three)),
    ] {
        out.extend((u32::try_from(block.len()).unwrap() | flag).to_le_bytes());
        out.extend(&block);
        out.extend(XxHash32::oneshot(0, &block).to_le_bytes());
    }
    out.extend([0; 4]);
    out.extend(XxHash32::oneshot(0, page).to_le_bytes());
    out
}

/// The block for `now` with `before` just before it: a match that reaches into the block before
/// and 12 literals at the end (as LZ4 demands), if that gives `now`.
fn repeated(before: &[u8], now: &[u8]) -> Vec<u8> {
    let copied = now.len().saturating_sub(12);
    let same = copied >= 19 && now.iter().zip(before).take(copied).all(|(a, b)| a == b);
    if !same || copied > before.len() {
        return literals(now);
    }
    let mut out = vec![0x0f]; // no literals, a long match
    out.extend(u16::try_from(before.len()).unwrap().to_le_bytes());
    let mut rest = copied - 19;
    while rest >= 255 {
        out.push(255);
        rest -= 255;
    }
    out.push(u8::try_from(rest).unwrap());
    out.extend(literals(&now[copied..]));
    out
}

fn descriptor(described: &[u8]) -> Vec<u8> {
    let [_, check, ..] = XxHash32::oneshot(0, described).to_le_bytes();
    [described, &[check]].concat()
}
