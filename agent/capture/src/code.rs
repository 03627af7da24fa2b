//! The program's own code in memory.
//!
//! Most of what is ever run is run at the start, and half of the memory of an agent at rest was code
//! that nobody needed any more. Its pages are those of the program's file: let go of, they stay in
//! the page cache for as long as the system likes, and what is run again is mapped again from there.

use std::ops::Range;
use std::sync::OnceLock;

use crate::ffi;

/// Lets go of all code and constants; what is needed comes back by itself, at a microsecond for each
/// 64 KiB.
pub(crate) fn let_go() {
    static RANGES: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    let ranges = RANGES.get_or_init(|| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        unwritten(&maps, let_go as *const () as usize)
    });
    for range in ranges {
        ffi::let_go_of_code(range);
    }
}

/// The mappings of the file that holds `code` which nobody ever wrote to: its code, and the constants
/// at its beginning. Not those that the loader writes addresses into and then protects.
fn unwritten(maps: &str, code: usize) -> Vec<Range<usize>> {
    let maps: Vec<_> = maps.lines().filter_map(Map::parse).collect();
    let Some(own) = maps.iter().find(|map| map.range.contains(&code)) else {
        return Vec::new();
    };
    let is_clean = |map: &&Map<'_>| {
        map.file == own.file
            && (map.access == "r-xp" || (map.access == "r--p" && map.offset_is_zero))
    };
    maps.iter()
        .filter(is_clean)
        .map(|map| map.range.clone())
        .collect()
}

/// A line of `/proc/self/maps` (proc_pid_maps(5)).
struct Map<'a> {
    range: Range<usize>,
    access: &'a str,
    offset_is_zero: bool,
    /// Device and inode.
    file: (&'a str, &'a str),
}

impl<'a> Map<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let access = fields.next()?;
        let offset_is_zero = fields.next()?.bytes().all(|digit| digit == b'0');
        let file = (fields.next()?, fields.next()?);
        (file.1 != "0").then_some(Self {
            range: address(from)?..address(to)?,
            access,
            offset_is_zero,
            file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0400000 r--p 00000000 fe:00 1234                       /bin/agent
55d0c0400000-55d0c1400000 r-xp 00400000 fe:00 1234                       /bin/agent
55d0c1400000-55d0c14d0000 r--p 01400000 fe:00 1234                       /bin/agent
55d0c14d0000-55d0c14d8000 rw-p 014d0000 fe:00 1234                       /bin/agent
55d0c2000000-55d0c2100000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000100000 r--p 00000000 fe:00 99                         /lib/libc.so.6
7f0000100000-7f0000200000 r-xp 00100000 fe:00 99                         /lib/libc.so.6
";

    #[test]
    fn only_what_nobody_wrote_to_is_let_go_of() {
        let ranges = unwritten(MAPS, 0x55d0_c080_0000);
        let first = 0x55d0_c000_0000..0x55d0_c040_0000;
        assert_eq!(ranges, [first, 0x55d0_c040_0000..0x55d0_c140_0000]);
        assert_eq!(unwritten(MAPS, 0x55d0_c200_0000), []);
        assert_eq!(unwritten("what is this\n", 1), []);
    }

    #[test]
    fn the_program_goes_on_without_its_code() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let kib = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
            kib.parse::<u64>().unwrap()
        };
        let shrinks = || {
            let before = resident();
            let_go();
            resident() < before
        };
        // Other tests run in this process, and want their code back.
        assert!((0..100).any(|_| shrinks()));
    }
}
