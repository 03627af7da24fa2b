//! A reader of our own for the facts of LTX files: names, headers, page indexes. It shares nothing
//! with the code under test.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// How often a level is listed that files go from meanwhile.
const LISTINGS_MAX: usize = 100;

/// What one LTX file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where it lies.
    pub path: PathBuf,
    /// The lowest TXID.
    pub min: u64,
    /// The highest TXID.
    pub max: u64,
    /// Size of the database in pages after it.
    pub commit: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Who wrote it.
    pub node_id: u64,
    /// How many pages are in it.
    pub pages: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Whether its first page is in the block encoding.
    pub blocks: bool,
}

/// Reads the facts of one file.
pub fn facts(path: &Path) -> Result<Facts> {
    let data = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        data.len() >= 100 + 6 + 9 + 16,
        "{}: {} bytes",
        path.display(),
        data.len()
    );
    ensure!(&data[..4] == b"LTX1", "{}: no LTX file", path.display());
    let u32_at = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap_or_default());
    let u64_at = |at: usize| u64::from_be_bytes(data[at..at + 8].try_into().unwrap_or_default());
    let index = index(&data).context("the index begins in the file")?;
    // three varints a page, then one zero: every byte below 0x80 ends a varint
    let varints = index.iter().filter(|byte| **byte < 0x80).count();
    ensure!(varints % 3 == 1, "{}: a broken index", path.display());
    Ok(Facts {
        path: path.into(),
        min: u64_at(16),
        max: u64_at(24),
        commit: u32_at(12),
        page_size: u32_at(8),
        timestamp: i64::from_be_bytes(u64_at(32).to_be_bytes()),
        node_id: u64_at(72),
        pages: u64::try_from(varints / 3)?,
        bytes: u64::try_from(data.len())?,
        // the flags of the first page: after the header and the page's number
        blocks: data[104..106] == [0, 1],
    })
}

/// The files of one level of a replica, by TXID. A level that is not there is empty.
///
/// Retention may be at work: where a file goes between being listed and being read, the level is listed
/// again, for without that file it may be one that never was.
pub fn level(replica: &Path, level: u8) -> Result<Vec<Facts>> {
    let is_gone = |err: &anyhow::Error| {
        let cause = err.root_cause().downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == ErrorKind::NotFound)
    };
    for _ in 0..LISTINGS_MAX {
        match listed(replica, level) {
            Err(err) if is_gone(&err) => {}
            found => return found,
        }
    }
    listed(replica, level)
}

fn listed(replica: &Path, level: u8) -> Result<Vec<Facts>> {
    let dir = replica.join("ltx").join(level.to_string());
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).with_context(|| dir.display().to_string()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.len() == 37 && path.extension().is_some_and(|end| end == "ltx") {
            let file = facts(&path)?;
            ensure!(
                name == format!("{:016x}-{:016x}.ltx", file.min, file.max),
                "{name} says {:x}-{:x} inside",
                file.min,
                file.max
            );
            files.push(file);
        }
    }
    files.sort_by_key(|file| (file.min, file.max));
    Ok(files)
}

/// Damages a file: of the page in its middle the first byte is another one. Its time stays.
///
/// Just any bit would not do: the file checksum covers pages as they are decompressed (LITESTREAM.md §1.7),
/// and of the bits of a typical file one in fifty changes nothing of that.
pub fn damage(path: &Path) -> Result<()> {
    let broken = || format!("{}: a page cannot be found", path.display());
    let time = fs::metadata(path)?.modified()?;
    let mut data = fs::read(path)?;
    let at = middle_page(&data)
        .and_then(|page| first_literal(&data, page))
        .with_context(broken)?;
    *data.get_mut(at).with_context(broken)? ^= 1;
    fs::write(path, data)?;
    let file = fs::File::options().write(true).open(path)?;
    Ok(file.set_modified(time)?)
}

/// The page index: before its size, which is before the two checksums.
fn index(data: &[u8]) -> Option<&[u8]> {
    let end = data.len().checked_sub(24)?;
    let bytes = u64::from_be_bytes(data.get(end..end + 8)?.try_into().ok()?);
    data.get(end.checked_sub(usize::try_from(bytes).ok()?)?..end)
}

/// Where the middle one of a file's pages begins.
fn middle_page(data: &[u8]) -> Option<usize> {
    let numbers: Vec<u64> = index(data)?
        .split_inclusive(|byte| *byte < 0x80)
        .map(|varint| {
            let groups = varint.iter().rev();
            groups.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
        })
        .collect();
    // the page's number, its offset, its length
    let entries = numbers.chunks_exact(3);
    let middle = entries.len() / 2;
    usize::try_from(*entries.map(|entry| &entry[1]).nth(middle)?).ok()
}

/// Where the first byte of a page lies. It stands there as it is: a match has nothing before it to
/// copy, so that the first sequence of an LZ4 block begins with a literal.
fn first_literal(data: &[u8], page: usize) -> Option<usize> {
    const STORED: u32 = 1 << 31;
    let in_frame = data.get(page + 4..page + 6)? == [0, 0];
    // the page header; the size of the block, or the header of the frame and then that size
    let block = page + if in_frame { 6 + 7 + 4 } else { 6 + 4 };
    let size = u32::from_le_bytes(data.get(block - 4..block)?.try_into().ok()?);
    if in_frame && size & STORED != 0 {
        return Some(block);
    }
    match data.get(block)? >> 4 {
        0 => None,
        15 => {
            let rest = data.get(block + 1..)?;
            Some(block + 2 + rest.iter().position(|byte| *byte != 255)?)
        }
        _ => Some(block + 1),
    }
}

/// The highest TXID that a replica holds at any level; 0 when it holds none.
pub fn head(replica: &Path) -> Result<u64> {
    let mut head = 0;
    for number in 0..=9 {
        head = level(replica, number)?
            .iter()
            .map(|file| file.max)
            .fold(head, u64::max);
    }
    Ok(head)
}

/// All LTX files below a replica, branches too.
pub fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(found),
        Err(err) => return Err(err).with_context(|| dir.display().to_string()),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(below(&entry.path())?);
        } else if entry.path().extension().is_some_and(|end| end == "ltx") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
