//! References against a small cluster.

use proptest::prelude::*;

use super::*;
use crate::failure::Exit;

impl Named for String {
    fn name(&self) -> String {
        self.clone()
    }
}

fn cluster() -> Vec<String> {
    [
        "media/surmai/sqlite/data.db",
        "media/surmai/sqlite/cache.db",
        "media/jellyfin/config/data/library.db",
        "home/mealie/data/mealie.db",
        "home/surmai/sqlite/data.db",
        "home/media/data/odd%20name.db",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn one(text: &str) -> Result<String> {
    Reference::parse(text).unwrap().one(&cluster()).cloned()
}

#[test]
fn any_unambiguous_run_of_parts_names_a_database() {
    for (text, name) in [
        ("media/surmai/sqlite/data.db", "media/surmai/sqlite/data.db"),
        (
            "/media/surmai/sqlite/data.db/",
            "media/surmai/sqlite/data.db",
        ),
        ("cache.db", "media/surmai/sqlite/cache.db"),
        ("jellyfin", "media/jellyfin/config/data/library.db"),
        ("config/data", "media/jellyfin/config/data/library.db"),
        ("home/surmai", "home/surmai/sqlite/data.db"),
        ("mealie.db", "home/mealie/data/mealie.db"),
        ("odd%20name.db", "home/media/data/odd%20name.db"),
        ("odd name.db", "home/media/data/odd%20name.db"),
    ] {
        assert_eq!(one(text).unwrap(), name, "{text}");
    }
}

#[test]
fn ambiguous_references_are_refused_with_the_candidates() {
    let failure = one("surmai/sqlite/data.db").unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    let text = failure.to_string();
    assert!(text.contains("media/surmai/sqlite/data.db"), "{text}");
    assert!(text.contains("home/surmai/sqlite/data.db"), "{text}");
    assert!(!text.contains("cache.db"), "{text}");
    assert_eq!(one("media").unwrap_err().exit, Exit::Refused);
}

#[test]
fn unknown_references_list_near_names() {
    let failure = one("surmia").unwrap_err();
    assert_eq!(failure.exit, Exit::NotFound);
    let hint = failure.next_step().unwrap();
    assert!(hint.contains("home/surmai/sqlite/data.db"), "{hint}");
    assert!(!hint.contains("jellyfin"), "{hint}");
    assert_eq!(one("zzzzzzzz").unwrap_err().exit, Exit::NotFound);
}

#[test]
fn runs_do_not_skip_parts_or_match_half_of_one() {
    for text in ["media/sqlite", "surm", "media/surmai/data.db", "db"] {
        assert_eq!(one(text).unwrap_err().exit, Exit::NotFound, "{text}");
    }
}

#[test]
fn a_whole_name_wins_over_a_longer_one_that_holds_it() {
    let names = ["a/b/c/d", "a/b/c/d/e", "x/a/b/c/d"].map(str::to_owned);
    let found = Reference::parse("a/b/c/d").unwrap();
    assert_eq!(found.one(&names).unwrap(), "a/b/c/d");
}

#[test]
fn verbs_on_several_take_all_that_match() {
    let names = cluster();
    let found = Reference::parse("data.db")
        .unwrap()
        .several(&names)
        .unwrap()
        .len();
    assert_eq!(found, 2);
    let failure = Reference::parse("nothing-like-it")
        .unwrap()
        .several(&names)
        .unwrap_err();
    assert_eq!(failure.exit, Exit::NotFound);
}

#[test]
fn empty_parts_are_no_reference() {
    for text in ["", "/", "//", "a//b"] {
        assert!(Reference::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    /// Every run of a name finds the name, and what is found always holds the run.
    #[test]
    fn every_run_of_a_name_finds_it(
        names in prop::collection::vec(prop::collection::vec("[ab]{1,2}", 4..6), 1..8),
        pick in any::<prop::sample::Index>(),
        from in 0_usize..4,
        length in 1_usize..4,
    ) {
        let names: Vec<String> = names.iter().map(|parts| parts.join("/")).collect();
        let chosen = &names[pick.index(names.len())];
        let parts: Vec<&str> = chosen.split('/').collect();
        let run = &parts[from..(from + length).min(parts.len())];
        let reference = Reference::parse(&run.join("/")).unwrap();
        let found = reference.several(&names).unwrap();
        let run = format!("/{reference}/");
        let holds = |name: &&String| format!("/{name}/").contains(&run);
        prop_assert!(found.iter().all(holds));
        let whole = names.contains(&reference.text);
        prop_assert!(whole || found.contains(&chosen));
    }

    /// No text makes the search panic.
    #[test]
    fn any_text_is_answered(text in ".{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            let _ = reference.one(&cluster()).map(ToString::to_string);
        }
    }
}
