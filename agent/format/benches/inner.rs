//! The inner loops: what every byte of a busy database passes through.
//!
//! `cargo bench --package sqlrep-format`; `-- --quick` for a short round.
#![expect(
    missing_docs,
    reason = "criterion's macros make public functions without docs"
)]

use std::hint::black_box;
use std::io::Cursor;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sqlrep_format::ltx::{Checksums, Decoder, Encoder, Frames, Header, PageEncoder, WalSpan};
use sqlrep_format::wal::{ByteOrder, WalChecksum};
use sqlrep_format::{
    Crc64, Join, PageCount, PageSize, Pgno, Timestamp, Txid, TxidRange, page_checksum,
};

/// Pages of one file: the size of what a busy second leaves.
const PAGES: u32 = 2048;

/// A page as applications fill them: half of it repeats.
fn page(pgno: Pgno, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(pgno.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = vec![0; bytes];
    for record in page.chunks_mut(500) {
        let random = record.len() / 2;
        for byte in record.iter_mut().take(random) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[0];
        }
    }
    page
}

fn header() -> Header {
    Header {
        page_size: PageSize::new(4096).expect("a power of two"),
        commit: PageCount::new(PAGES).expect("not zero"),
        range: TxidRange::single(Txid::FIRST),
        timestamp: Timestamp::from_millis(1_700_000_000_000),
        checksums: Checksums::None,
        wal: WalSpan::CLAIM,
        node_id: 1,
    }
}

fn pages() -> Vec<(Pgno, Vec<u8>)> {
    let numbers = (1..=PAGES).filter_map(Pgno::new);
    numbers.map(|pgno| (pgno, page(pgno, 4096))).collect()
}

fn encode(pages: &[(Pgno, Vec<u8>)], out: Vec<u8>) -> Vec<u8> {
    let mut encoder = Encoder::new(out, &header()).expect("a sound header");
    for (pgno, page) in pages {
        encoder.page(*pgno, page).expect("ascending pages");
    }
    encoder.finish().expect("every page is there").0
}

fn checksums(criterion: &mut Criterion) {
    let bytes = page(Pgno::FIRST, 4096);
    let mut group = criterion.benchmark_group("4 KiB");
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("WAL checksum", |b| {
        b.iter(|| WalChecksum::default().update(ByteOrder::Little, black_box(&bytes)));
    });
    group.bench_function("page checksum", |b| {
        b.iter(|| page_checksum(Pgno::FIRST, black_box(&bytes)));
    });
    group.bench_function("CRC-64, running", |b| {
        let mut crc = Crc64::new();
        b.iter(|| crc.update(black_box(&bytes)));
    });
    group.bench_function("page checksum, from the CRC", |b| {
        let join = Join::new(4096);
        b.iter(|| join.page_checksum(Pgno::FIRST, black_box(7)));
    });
    group.finish();
    let long = bytes.repeat(64);
    let mut group = criterion.benchmark_group("256 KiB");
    group.throughput(Throughput::Bytes(long.len() as u64));
    group.bench_function("CRC-64", |b| {
        let mut crc = Crc64::new();
        b.iter(|| crc.update(black_box(&long)));
    });
    group.finish();
}

fn files(criterion: &mut Criterion) {
    let pages = pages();
    let file = encode(&pages, Vec::new());
    let mut group = criterion.benchmark_group("LTX, 8 MiB of pages");
    group.throughput(Throughput::Bytes(u64::from(PAGES) * 4096));
    group.sample_size(20);
    group.bench_function("encode", |b| {
        let mut out = Some(Vec::with_capacity(file.len()));
        b.iter(|| {
            let mut buffer = out.take().unwrap_or_default();
            buffer.clear();
            out = Some(encode(black_box(&pages), buffer));
        });
    });
    group.bench_function("encode in sheets", |b| {
        let (numbers, pages): (Vec<_>, Vec<_>) = pages.iter().cloned().unzip();
        let pages = pages.concat();
        let mut encoder = PageEncoder::new(header().page_size);
        let mut frames = Frames::default();
        b.iter(|| {
            frames.clear();
            encoder.encode_all(&numbers, black_box(&pages), &mut frames);
        });
    });
    group.bench_function("decode", |b| {
        let mut page = vec![0; 4096];
        b.iter(|| {
            let mut decoder = Decoder::new(Cursor::new(black_box(&file))).expect("a sound file");
            while decoder
                .next_page(&mut page)
                .expect("a sound file")
                .is_some()
            {}
            decoder.finish().expect("a sound file")
        });
    });
    group.finish();
}

criterion_group!(inner, checksums, files);
criterion_main!(inner);
