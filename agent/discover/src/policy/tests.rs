//! Every annotation, right and wrong.

use super::*;

fn parse_one(key: &str, value: &str) -> Parsed {
    parse_all(&[(key, value)])
}

fn parse_all(pairs: &[(&str, &str)]) -> Parsed {
    let annotations = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let (empty_dirs, others) = (names(&["data", "cache"]), names(&["nas", "config"]));
    parse(
        &annotations,
        PodVolumes {
            empty_dirs: &empty_dirs,
            targets: &others,
        },
    )
}

#[test]
fn durations_are_read_within_their_bounds() {
    let seconds = |n| Some(Duration::from_secs(n));
    for (value, wanted) in [
        ("1s", seconds(1)),
        ("24h", seconds(86_400)),
        ("7d", seconds(604_800)),
        ("1h30m", seconds(5_400)),
        (" 2s ", seconds(2)),
        ("3650d", seconds(3650 * 86_400)),
        ("500ms", None),
        ("0s", None),
        ("3651d", None),
        ("10", None),
        ("-1s", None),
        ("1.5h", seconds(5_400)),
        ("", None),
        ("soon", None),
        ("99999999999999999999d", None),
        ("1s; rm", None),
        ("1M", seconds(2_630_016)),
    ] {
        let parsed = parse_one(RETENTION, value);
        assert_eq!(parsed.policy.retention, wanted, "{value:?}");
        assert_eq!(parsed.bad.len(), usize::from(wanted.is_none()), "{value:?}");
    }
    let parsed = parse_all(&[(SYNC_INTERVAL, "500ms"), (SNAPSHOT_INTERVAL, "12h")]);
    assert_eq!(
        parsed.policy.sync_interval,
        Some(Duration::from_millis(500))
    );
    assert_eq!(parsed.policy.snapshot_interval, seconds(43_200));
    assert_eq!(parse_one(SYNC_INTERVAL, "1ms").policy.sync_interval, None);
}

#[test]
fn wrong_value_is_named_with_what_is_accepted_and_the_rest_goes_on() {
    let wrong = [
        (JOURNAL_MODE, "delete", "keep or wal"),
        (RESTORE, "maybe", "auto, never or required"),
        (APP, "My_App", "DNS-1123"),
        (VOLUMES, "data, dat", "data, cache"),
        (TARGET_VOLUME, "data", "nas, config"),
        (DATABASES, "[", "globs like *.db"),
        (EXCLUDE, "/abs.db", "relative to the volume"),
        (DATABASES, " ", "1 to 64 globs"),
        (SYNC_INTERVAL, "often", "from 10ms"),
        ("sqlrep.io/sync-intervall", "1s", "no such annotation"),
        (REPLICATE, "true", "is a label"),
    ];
    for (key, value, accepted) in wrong {
        let parsed = parse_all(&[(key, value), (RETENTION, "3d")]);
        let [bad] = &parsed.bad[..] else {
            panic!("{key}: {:?}", parsed.bad)
        };
        assert_eq!((bad.key.as_str(), bad.value.as_str()), (key, value));
        assert!(bad.accepted.contains(accepted), "{key}: {}", bad.accepted);
        assert_eq!(
            parsed.policy.retention,
            Some(Duration::from_hours(72)),
            "{key}"
        );
        let uncertain = [APP, TARGET_VOLUME].contains(&key);
        assert_eq!(bad.leaves_restore_uncertain(), uncertain, "{key}");
    }
}

#[test]
fn right_values_are_taken() {
    let parsed = parse_all(&[
        (VOLUMES, "data"),
        (JOURNAL_MODE, "wal"),
        (RESTORE, "required"),
        (APP, "surmai"),
        (TARGET_VOLUME, "nas"),
        ("other.io/annotation", "is not ours"),
    ]);
    assert_eq!(parsed.bad, []);
    assert_eq!(parsed.app.as_deref(), Some("surmai"));
    assert_eq!(parsed.policy.journal, Journal::Wal);
    assert_eq!(parsed.policy.restore, Restore::Required);
    assert_eq!(parsed.policy.target_volume.as_deref(), Some("nas"));
    assert!(parsed.policy.selects_volume("data") && !parsed.policy.selects_volume("cache"));
    assert_eq!(parse_all(&[]).policy, Policy::default());
    assert!(Policy::default().selects_volume("any"));
}

#[test]
fn target_volume_needs_exactly_one_empty_dir() {
    let parsed = parse_one(TARGET_VOLUME, "nas");
    assert_eq!(parsed.policy.target_volume, None);
    assert!(
        parsed.bad[0].accepted.contains("exactly one emptyDir"),
        "{:?}",
        parsed.bad
    );
}

#[test]
fn volumes_that_the_pod_does_not_have_select_nothing() {
    let parsed = parse_one(VOLUMES, "elsewhere");
    assert!(!parsed.policy.selects_volume("data") && !parsed.policy.selects_volume("elsewhere"));
    assert_eq!(parsed.bad.len(), 1);
}

#[test]
fn globs_choose_and_exclude() {
    let policy = parse_all(&[
        (
            DATABASES,
            "*.db, ./data/**/*.{sqlite,sqlite3}\nstate/[a,b].bin",
        ),
        (EXCLUDE, "tmp.db"),
    ])
    .policy;
    for (path, wanted) in [
        ("app.db", true),
        ("sub/app.db", false),
        ("tmp.db", false),
        ("data/app.sqlite", true),
        ("data/a/b/app.sqlite3", true),
        ("app.sqlite", false),
        ("state/a.bin", true),
        ("state/c.bin", false),
    ] {
        assert_eq!(policy.wants(Path::new(path)), wanted, "{path}");
        assert_eq!(policy.names(Path::new(path)), wanted, "{path}");
    }
    assert!(Policy::default().wants(Path::new("any/thing")));
    assert!(!Policy::default().names(Path::new("any/thing")));
}

#[test]
fn wrong_globs_are_left_out_and_when_none_is_right_the_default_holds() {
    let parsed = parse_one(DATABASES, "[, *.db");
    assert_eq!(parsed.policy.databases.unwrap().written(), ["*.db"]);
    assert_eq!(parsed.bad.len(), 1);
    let parsed = parse_one(DATABASES, "[,*.db");
    assert_eq!(
        parsed.policy.databases, None,
        "a bracket swallows the comma"
    );
    let parsed = parse_one(DATABASES, "/x.db *.db");
    assert_eq!(parsed.policy.databases.unwrap().written(), ["*.db"]);
    assert_eq!(parsed.bad.len(), 1);
    assert!(parse_one(DATABASES, "[").policy.wants(Path::new("app.db")));
}

#[test]
fn hostile_annotations_are_bounded() {
    let many = vec!["*.db"; 10_000].join(",");
    let parsed = parse_one(DATABASES, &many);
    assert_eq!(parsed.policy.databases.unwrap().written().len(), GLOBS_MAX);
    assert_eq!(parsed.bad[0].value.chars().count(), VALUE_CHARS_MAX + 1);
    let deep = "{".repeat(200) + &"}".repeat(200);
    for hostile in [
        "x".repeat(100_000),
        deep,
        "{a,".repeat(80),
        "**/".repeat(80),
        "\0".into(),
    ] {
        let parsed = parse_one(DATABASES, &hostile);
        assert!(parsed.bad.len() <= 2, "{:?}", parsed.bad);
    }
    let keys: Vec<String> = (0..1_000).map(|n| format!("{PREFIX}{n}")).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "x")).collect();
    assert!(parse_all(&pairs).bad.len() <= BAD_VALUES_MAX);
}

#[test]
fn label_opts_in_only_when_true() {
    assert!(opted_in(Some("true")).unwrap());
    assert!(!opted_in(Some("false")).unwrap());
    assert!(!opted_in(None).unwrap());
    let bad = opted_in(Some("yes")).unwrap_err();
    assert_eq!((bad.key.as_str(), bad.value.as_str()), (REPLICATE, "yes"));
}
