//! Requests of every kind, and what a row looks like.

use super::*;

fn wire(path: &str) -> v1::DatabaseId {
    v1::DatabaseId {
        namespace: "media".to_owned(),
        app: "surmai".to_owned(),
        volume: "sqlite".to_owned(),
        path: path.to_owned(),
    }
}

#[test]
fn a_database_is_named_by_its_four_parts_there_and_back() {
    let named = named(Some(wire("a/b.db"))).unwrap();
    assert_eq!(named.to_string(), "media/surmai/sqlite/a/b.db");
    assert_eq!(id(&named), wire("a/b.db"));
}

#[test]
fn names_that_are_none_are_usage_errors() {
    let mut cases = vec![
        None,
        Some(wire("")),
        Some(wire("../x.db")),
        Some(wire("/etc/passwd")),
    ];
    for part in ["", "a/b"] {
        let mut id = wire("x.db");
        id.app = part.to_owned();
        cases.push(Some(id));
    }
    for case in cases {
        let refused = named(case.clone()).expect_err(&format!("{case:?}"));
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{case:?}");
    }
    assert!(all_named(Vec::new()).is_err());
    assert!(all_named(vec![wire("x.db"); REFERENCES_MAX + 1]).is_err());
}

#[test]
fn points_are_read_in_milliseconds_and_never_overflow() {
    let at = |at| point(Some(v1::Point { at: Some(at) }));
    assert_eq!(point(None).unwrap(), Point::Latest);
    assert_eq!(point(Some(v1::Point { at: None })).unwrap(), Point::Latest);
    let txid = Txid::new(7).unwrap();
    assert_eq!(at(v1::point::At::Txid(7)).unwrap(), Point::Txid(txid));
    assert!(at(v1::point::At::Txid(0)).is_err());
    let time = |seconds, nanos| {
        at(v1::point::At::Before(prost_types::Timestamp {
            seconds,
            nanos,
        }))
    };
    let millis = |millis| Point::Before(Timestamp::from_millis(millis));
    assert_eq!(
        time(1_700_000_000, 5_999_999).unwrap(),
        millis(1_700_000_000_005)
    );
    assert_eq!(time(-1, 1_000_000).unwrap(), millis(-999));
    assert!(time(i64::MAX, 0).is_err());
    assert!(time(i64::MIN, i32::MIN).is_err());
}

#[test]
fn times_of_headers_keep_their_milliseconds_also_before_1970() {
    for millis in [0, 1, 999, 1_700_000_000_123, -1, -1001] {
        let wire = captured(Timestamp::from_millis(millis));
        assert!((0..1_000_000_000).contains(&wire.nanos));
        let at = v1::point::At::Before(wire);
        let back = point(Some(v1::Point { at: Some(at) })).unwrap();
        assert_eq!(back, Point::Before(Timestamp::from_millis(millis)));
    }
}

#[test]
fn a_root_that_cannot_be_used_stalls_what_follows_and_leaves_the_rest_as_it_is() {
    let named = named(Some(wire("x.db"))).unwrap();
    let mut row = DatabaseStatus::new(named, "pod", "uid");
    let bad = RootHealth {
        problem: Some("not mounted".to_owned()),
        ..RootHealth::default()
    };
    let good = RootHealth {
        problem: None,
        ..RootHealth::default()
    };
    let shown = |row: &DatabaseStatus, root: &RootHealth, note: Option<&str>| {
        let around = Around {
            node: "n",
            root,
            now: Instant::now(),
        };
        let shown = database(row.clone(), note.map(str::to_owned), &around);
        (shown.state(), shown.reason, shown.hint.is_empty())
    };
    row.state = State::Following;
    assert_eq!(
        shown(&row, &good, None),
        (v1::State::Following, String::new(), true)
    );
    assert_eq!(
        shown(&row, &bad, None),
        (v1::State::Stalled, "not mounted".to_owned(), false)
    );
    row.in_volume = true;
    let elsewhere = (v1::State::Following, String::new(), true);
    assert_eq!(shown(&row, &bad, None), elsewhere);
    row.in_volume = false;
    row.state = State::Unsupported;
    row.reason = Some("journal_mode=delete".to_owned());
    let unsupported = (
        v1::State::Unsupported,
        "journal_mode=delete".to_owned(),
        true,
    );
    assert_eq!(shown(&row, &bad, None), unsupported);
    row.state = State::Following;
    row.reason = None;
    let noted = (v1::State::Following, "annotation a".to_owned(), false);
    assert_eq!(shown(&row, &good, Some("annotation a")), noted);
}
