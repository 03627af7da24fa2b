//! Tests of the page bookkeeping; the scan itself is tested through restore and verify.

use sqlrep_format::PageCount;

use super::owned::Owned;
use super::*;

#[test]
fn a_claimed_size_does_not_allocate() {
    let huge = PageCount::new(u32::MAX).unwrap();
    assert!(Owned::new(huge, 1_000_000).is_none());
    assert!(Owned::new(PageCount::new(100).unwrap(), 10_000).is_some());
}

#[test]
fn a_page_has_one_owner() {
    let mut owned = Owned::new(PageCount::new(130).unwrap(), 10_000).unwrap();
    for pgno in [1, 64, 65, 128, 129, 130] {
        let pgno = Pgno::new(pgno).unwrap();
        assert!(!owned.holds(pgno));
        assert!(owned.claim(pgno));
        assert!(!owned.claim(pgno));
        assert!(owned.holds(pgno));
    }
    assert_eq!(owned.count(), 6);
    assert!(!owned.claim(Pgno::new(4000).unwrap()));
}
