//! Round trips at every page size, and damage of every kind.

use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::super::encoder::EncodeError;
use super::super::foreign::{self, Shape};
use super::super::frames::{Frames, PageEncoder};
use super::super::page::is_of_our_shape;
use super::*;

/// A page: noise, zeros, or both in turn.
fn page(bytes: usize, seed: u64, runs: u8) -> Vec<u8> {
    let mut state = seed | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let run = (bytes / usize::from(runs.max(1))).max(1);
    (0..bytes)
        .map(|at| {
            if runs == 0 || (at / run) % 2 == 1 {
                0
            } else {
                noise()
            }
        })
        .collect()
}

/// A header and its pages; page numbers reach over the lock page where files are sparse.
fn files() -> impl Strategy<Value = (Header, Pages)> {
    let size = prop::sample::select(vec![
        512_u32, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536,
    ]);
    let pages = prop::collection::vec((any::<u32>(), any::<u64>(), 0_u8..9), 1..12);
    (size, pages, any::<bool>(), any::<[u64; 3]>(), any::<bool>()).prop_map(
        |(size, seeds, snapshot, numbers, near_lock)| {
            let lock = PageSize::new(size).unwrap().lock_page();
            let [node_id, timestamp, span] = numbers;
            let first = if near_lock { lock.get() - 5 } else { 1 };
            let mut pages = Pages::new();
            for (place, (skip, seed, runs)) in seeds.into_iter().enumerate() {
                let place = u32::try_from(place).unwrap();
                let number = match (snapshot, pages.last()) {
                    (true, _) => place + 1,
                    (false, None) => first + skip % 4,
                    (false, Some((last, _))) => last.get() + 1 + skip % 4,
                };
                if pgno(number) != lock {
                    let content = page(PageSize::new(size).unwrap().bytes(), seed, runs);
                    pages.push((pgno(number), content));
                }
            }
            let last = pages.last().map_or(1, |(last, _)| last.get());
            let range = if snapshot { range(1, 9) } else { range(2, 2) };
            let header = Header {
                node_id,
                timestamp: Timestamp::from_millis(timestamp.cast_signed()),
                wal: WalSpan {
                    offset: 32 + (span >> 2),
                    size: span >> 1,
                    salts: Salts {
                        salt1: 1,
                        salt2: u32::MAX,
                    },
                },
                ..header(size, last, range)
            };
            (header, pages)
        },
    )
}

/// The file as one of the writers makes it.
fn written(header: &Header, pages: &Pages, writer: Pick) -> Vec<u8> {
    match writer.index(5) {
        0 => encode(header, pages).0,
        shape => foreign::file(header, pages, Shape::ALL[shape - 1]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_is_encoded_decodes_the_same_both_ways((header, pages) in files()) {
        let (file, told) = encode(&header, &pages);
        prop_assert_eq!(told.bytes, file.len() as u64);
        prop_assert_eq!(told.pages as usize, pages.len());
        let tail = parse_tail(file.last_chunk().unwrap(), file.len() as u64).unwrap();
        prop_assert_eq!(tail.trailer, told.trailer);
        let expected = (header, pages);
        prop_assert_eq!(&stream(&file).unwrap(), &expected);
        prop_assert_eq!(&pieces(&file).unwrap(), &expected);
    }

    #[test]
    fn every_shape_decodes_the_same_both_ways((header, pages) in files()) {
        for shape in Shape::ALL {
            let file = foreign::file(&header, &pages, shape);
            let expected = (header, pages.clone());
            prop_assert_eq!(&stream(&file).unwrap(), &expected, "{:?}", shape);
            prop_assert_eq!(&pieces(&file).unwrap(), &expected, "{:?}", shape);
        }
    }

    #[test]
    fn a_file_of_copied_pages_is_one_that_we_would_write((header, pages) in files()) {
        let (ours, _) = encode(&header, &pages);
        let theirs = Shape::ALL.map(|shape| foreign::file(&header, &pages, shape));
        for (number, file) in [ours.clone()].iter().chain(&theirs).enumerate() {
            let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
            for ((pgno, frame), (_, page)) in frames(file).into_iter().zip(&pages) {
                encoder.copy(pgno, frame, page).unwrap();
            }
            let (copied, told) = encoder.finish().unwrap();
            prop_assert_eq!(told.bytes, copied.len() as u64);
            prop_assert_eq!(&stream(&copied).unwrap(), &(header, pages.clone()));
            prop_assert_eq!(&pieces(&copied).unwrap(), &(header, pages.clone()));
            for (pgno, frame) in frames(&copied) {
                let bytes = header.page_size.bytes();
                prop_assert!(is_of_our_shape(frame, pgno, bytes), "{}: {}", number, pgno);
            }
            if number == 0 {
                prop_assert_eq!(&copied, file);
            }
        }
    }

    #[test]
    fn pages_that_were_encoded_away_from_the_file_are_those_that_it_would_hold(
        (header, pages) in files(),
        run in 1_usize..5,
    ) {
        let mut away = PageEncoder::new(header.page_size);
        let mut frames = Frames::default();
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        for pages in pages.chunks(run) {
            frames.clear();
            for (pgno, page) in pages {
                away.encode(*pgno, page, &mut frames);
            }
            encoder.append(&frames).unwrap();
            // What was just written may not come again: all of it is refused, and nothing happened.
            let again = encoder.append(&frames);
            prop_assert!(matches!(again, Err(EncodeError::Order(_))), "{:?}", again);
            if pages.len() == run {
                // Nor after a page that may come.
                let mut beyond = Frames::default();
                let next = pages.last().and_then(|(pgno, _)| pgno.next()).unwrap();
                away.encode(next, &pages[0].1, &mut beyond);
                away.encode(next, &pages[0].1, &mut beyond);
                prop_assert!(encoder.append(&beyond).is_err());
            }
        }
        prop_assert_eq!(encoder.finish().unwrap(), encode(&header, &pages));
    }

    #[test]
    fn a_cut_file_is_called_truncated(
        (header, pages) in files(),
        writer in any::<Pick>(),
        cuts in prop::collection::vec(any::<Pick>(), 20),
    ) {
        let file = written(&header, &pages, writer);
        for cut in cuts {
            let cut = cut.index(file.len());
            let error = stream(&file[..cut]).unwrap_err();
            prop_assert!(error.is_truncated() && error.is_corrupt(), "{} at {}", error, cut);
            prop_assert!(pieces(&file[..cut]).is_err());
        }
    }

    #[test]
    fn a_changed_file_never_decodes_to_something_else(
        (header, pages) in files(),
        writer in any::<Pick>(),
        changes in prop::collection::vec((any::<Pick>(), 1_u8..=255, 0_u8..4), 20),
    ) {
        let file = written(&header, &pages, writer);
        for (place, value, kind) in changes {
            let mut changed = file.clone();
            // Most bytes are page content: half of the changes go to the rest.
            let place = match (kind, place.index(2)) {
                (_, 0) => place.index(file.len()),
                (0, _) => place.index(140),
                _ => file.len() - 1 - place.index(80),
            };
            match kind {
                0 | 1 => changed[place] ^= value,
                2 => changed.insert(place, value),
                _ => drop(changed.remove(place)),
            }
            // LZ4 has many spellings of one content: the same content is no harm.
            for (name, result) in [("stream", stream(&changed)), ("pieces", pieces(&changed))] {
                let Ok((found, content)) = result else { continue };
                // The end marker holds nothing, and pieces do not look at it.
                let harmless = found == header && content == pages;
                prop_assert!(harmless, "{} took a change at {}", name, place);
            }
        }
    }

    #[test]
    fn noise_is_refused_without_panic(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        (header, _) in files(),
    ) {
        prop_assert!(stream(&noise).is_err());
        prop_assert!(pieces(&noise).is_err());
        let file = [&header.encode()[..], &noise].concat();
        prop_assert!(stream(&file).is_err());
        prop_assert!(pieces(&file).is_err());
        let page = [&[0, 0, 0, 1, 0, 0, 0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7], &noise[..]];
        let file = [&header.encode()[..], &page.concat()].concat();
        prop_assert!(stream(&file).is_err());
        let mut out = vec![0; header.page_size.bytes()];
        let mut pages = PageDecoder::new(header.page_size);
        prop_assert!(pages.decode(&page.concat(), &mut out, &mut Crc64::new()).is_err());
        prop_assert!(pages.decode(&noise, &mut out, &mut Crc64::new()).is_err());
    }

    #[test]
    fn readers_that_give_little_at_a_time_change_nothing((header, pages) in files()) {
        struct Drip<'a>(&'a [u8]);
        impl std::io::Read for Drip<'_> {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                let bytes = out.len().min(self.0.len()).min(7);
                std::io::Read::read(&mut self.0, &mut out[..bytes])
            }
        }
        let (file, told) = encode(&header, &pages);
        let decoder = Decoder::new(Drip(&file)).unwrap();
        prop_assert_eq!(decoder.finish().unwrap(), told.trailer);
    }
}

#[test]
fn every_single_bit_of_a_small_file_is_guarded() {
    let header = header(512, 2, range(1, 3));
    let pages = vec![(pgno(1), page(512, 3, 0)), (pgno(2), page(512, 5, 2))];
    for shape in [
        None,
        Some(Shape::Frame),
        Some(Shape::Block),
        Some(Shape::LinkedBlocks),
    ] {
        let file = match shape {
            None => encode(&header, &pages).0,
            Some(shape) => foreign::file(&header, &pages, shape),
        };
        for bit in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = stream(&changed) {
                assert_eq!(found, (header, pages.clone()), "{shape:?} byte {}", bit / 8);
            }
        }
    }
}
