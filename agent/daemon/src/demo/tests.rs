//! What of the demo can be tried without its processes; `tests/e2e` plays it whole.

use std::path::Path;

use super::app::Count;
use super::shorten;

#[test]
fn the_count_of_rows_is_read_as_it_is_printed() {
    let count: Count = "250 0123456789abcdef\n".parse().unwrap();
    assert_eq!(
        count,
        Count {
            rows: 250,
            digest: "0123456789abcdef".to_owned()
        }
    );
    for text in ["", "250", "x 1"] {
        assert!(text.parse::<Count>().is_err(), "{text:?}");
    }
}

#[test]
fn paths_are_shown_relative_to_the_stage() {
    assert_eq!(
        shorten(Path::new("/tmp/demo/nas/x"), Path::new("/tmp/demo")),
        "nas/x"
    );
    assert_eq!(shorten(Path::new("/else"), Path::new("/tmp/demo")), "/else");
}
