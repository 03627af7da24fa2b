//! The first 100 bytes of a file: is it a SQLite database, and in which journal mode
//! (<https://www.sqlite.org/fileformat2.html#the_database_header>).

use crate::event::Kind;

/// All that is ever read of a file here.
pub(crate) const HEADER_BYTES: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What the head of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Shorter than a header, or zeros: a file whose first page is still to be written.
    NothingYet,
    /// Something else.
    NotADatabase,
    /// A database of this kind.
    Database(Kind),
    /// A database of a read version that no released SQLite knows.
    UnknownVersion(u8),
}

/// Judges the head of a file; `head` is shorter than [`HEADER_BYTES`] only if the file is.
pub(crate) fn judge(head: &[u8]) -> Head {
    if head.iter().all(|byte| *byte == 0) {
        return Head::NothingYet;
    }
    let common = head.len().min(MAGIC.len());
    if head[..common] != MAGIC[..common] {
        return Head::NotADatabase;
    }
    if head.len() < HEADER_BYTES {
        return Head::NothingYet;
    }
    let page_size = u16::from_be_bytes([head[16], head[17]]);
    // 1 stands for 65536, which does not fit.
    if page_size != 1 && !(page_size >= 512 && page_size.is_power_of_two()) {
        return Head::NotADatabase;
    }
    // The read version decides: SQLite opens a WAL exactly when it is 2.
    match head[19] {
        1 => Head::Database(Kind::Rollback),
        2 => Head::Database(Kind::Wal),
        version => Head::UnknownVersion(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(page_size: u16, read_version: u8) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(page_size.to_be_bytes());
        head.extend([read_version, read_version]);
        head.resize(HEADER_BYTES, 0);
        head
    }

    #[test]
    fn journal_mode_is_told_by_the_read_version() {
        assert_eq!(judge(&header(4096, 1)), Head::Database(Kind::Rollback));
        assert_eq!(judge(&header(1, 2)), Head::Database(Kind::Wal));
        assert_eq!(judge(&header(32768, 9)), Head::UnknownVersion(9));
    }

    #[test]
    fn other_bytes_are_no_database() {
        assert_eq!(judge(&[9; HEADER_BYTES]), Head::NotADatabase);
        assert_eq!(judge(&header(0, 2)), Head::NotADatabase);
        assert_eq!(judge(&header(1000, 2)), Head::NotADatabase);
        assert_eq!(judge(b"SQLite format 4\0"), Head::NotADatabase);
        assert_eq!(judge(b"hello"), Head::NotADatabase);
    }

    #[test]
    fn beginning_of_a_header_is_waited_for() {
        let whole = header(4096, 2);
        for length in 0..HEADER_BYTES {
            assert_eq!(judge(&whole[..length]), Head::NothingYet, "{length} bytes");
        }
        assert_eq!(judge(&[0; HEADER_BYTES]), Head::NothingYet);
    }
}
