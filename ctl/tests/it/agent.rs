//! The verbs that ask an agent, against one that says what a test wants.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sqlrep_format::Crc64;
use sqlrep_proto::v1;
use sqlrep_proto::v1::restore_response::Part;
use tonic::Code;

use crate::fake::{Fake, Said, Script};
use crate::support::{Run, names, sqlrepctl, sqlrepctl_with};

const PAGE: usize = 4096;

pub(crate) fn id(name: &str) -> v1::DatabaseId {
    let parts: Vec<&str> = name.splitn(4, '/').collect();
    let [namespace, app, volume, path] = parts.try_into().unwrap();
    let [namespace, app, volume, path] = [namespace, app, volume, path].map(str::to_owned);
    v1::DatabaseId {
        namespace,
        app,
        volume,
        path,
    }
}

pub(crate) fn database(name: &str, state: v1::State) -> v1::Database {
    v1::Database {
        id: Some(id(name)),
        node: "n1".to_owned(),
        pod: "pod-1".to_owned(),
        pod_uid: "uid-1".to_owned(),
        state: state.into(),
        size_bytes: 20_480,
        wal_bytes: 4_152,
        txid: Some(0x1b),
        shipped_txid: Some(0x1a),
        lag: Some(prost_types::Duration {
            seconds: 0,
            nanos: 12_000_000,
        }),
        ..v1::Database::default()
    }
}

fn cluster() -> Script {
    let unsupported = v1::Database {
        reason: "journal_mode=delete".to_owned(),
        hint: "set sqlrep.io/journal-mode: wal".to_owned(),
        last_error: "bad\x1b[2Jwords".to_owned(),
        ..database("home/mealie/data/mealie.db", v1::State::Unsupported)
    };
    Script {
        databases: vec![
            database("media/surmai/sqlite/data.db", v1::State::Following),
            database("media/surmai/sqlite/cache.db", v1::State::Following),
            unsupported,
        ],
        ..Script::default()
    }
}

/// The stream of a whole restore of three pages.
pub(crate) fn parts() -> (Vec<u8>, Vec<Said<v1::RestoreResponse>>) {
    let bytes: Vec<u8> = (0..3 * PAGE)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect();
    let mut crc = Crc64::new();
    crc.update(&bytes);
    let header = v1::RestoreHeader {
        size_bytes: bytes.len() as u64,
        txid: 0x1b,
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_795_380_545,
            nanos: 543_000_000,
        }),
        page_size: 4096,
        ownership: Some(v1::Ownership {
            uid: 1000,
            gid: 1000,
            mode: 0o640,
        }),
        warnings: vec!["went around a damaged file".to_owned()],
    };
    let end = v1::RestoreEnd {
        bytes_total: bytes.len() as u64,
        crc64: crc.value(),
    };
    let mut parts = vec![part(Part::Header(header))];
    parts.extend(
        bytes
            .chunks(5000)
            .map(|chunk| part(Part::Chunk(chunk.to_vec().into()))),
    );
    parts.push(part(Part::End(end)));
    (bytes, parts)
}

#[expect(clippy::unnecessary_wraps, reason = "a script may also say a status")]
fn part(part: Part) -> Said<v1::RestoreResponse> {
    Ok(v1::RestoreResponse { part: Some(part) })
}

fn ask(fake: &Fake, arguments: &[&str]) -> Run {
    let endpoint = fake.endpoint();
    sqlrepctl(&[arguments, &["--agent", &endpoint]].concat())
}

fn restore(fake: &Fake, more: &[&str]) -> (Run, PathBuf) {
    let file = fake.out().join("data.db");
    let arguments = [&["restore", "data.db", "-o", file.to_str().unwrap()], more].concat();
    (ask(fake, &arguments), file)
}

fn nothing_left(file: &Path) -> bool {
    names(file.parent().unwrap()).is_empty()
}

#[test]
fn list_shows_every_database_and_hints_aside() {
    let fake = Fake::start(cluster());
    let run = ask(&fake, &["list"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(
        run.out,
        "\
NODE   NAMESPACE   APP      PATH              STATE                                 SIZE   TXID    LAG   LAST ERROR
n1     home        mealie   data/mealie.db    unsupported (journal_mode=delete)   20.0Ki     1b   12ms   bad\\u{1b}[2Jwords
n1     media       surmai   sqlite/cache.db   following                           20.0Ki     1b   12ms   -
n1     media       surmai   sqlite/data.db    following                           20.0Ki     1b   12ms   -
"
    );
    assert_eq!(
        run.err,
        "home/mealie/data/mealie.db is unsupported (journal_mode=delete): \
         set sqlrep.io/journal-mode: wal\n"
    );
    let wide = ask(&fake, &["list", "-o", "wide", "cache.db"]);
    assert!(
        wide.out.contains("SHIPPED") && wide.out.contains("4.1Ki"),
        "{wide:?}"
    );
    assert_eq!(wide.out.lines().count(), 2);
}

#[test]
fn list_speaks_json_and_yaml() {
    let fake = Fake::start(cluster());
    let rows = ask(&fake, &["list", "-o", "json"]).json();
    let row = &rows[0];
    assert_eq!(row["state"], "unsupported");
    assert_eq!(row["reason"], "journal_mode=delete");
    assert_eq!(row["txid"], "000000000000001b");
    assert_eq!(row["lag_seconds"], 0.012);
    assert!(row["shipped_at"].is_null());
    let yaml = ask(&fake, &["list", "-o", "yaml", "cache.db"]);
    assert!(yaml.out.starts_with("- namespace: media\n"), "{yaml:?}");
}

#[test]
fn the_token_goes_along() {
    let fake = Fake::start(cluster());
    let endpoint = fake.endpoint();
    let run = sqlrepctl_with(&["list", "--agent", &endpoint], ("SQLREP_TOKEN", "abc"));
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(fake.asked().tokens, [Some("Bearer abc".to_owned())]);
}

#[test]
fn restore_writes_the_file_with_its_mode() {
    let (bytes, restore_parts) = parts();
    let fake = Fake::start(Script {
        restore: restore_parts,
        ..cluster()
    });
    let (run, file) = restore(&fake, &["--txid", "1b"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_eq!(names(&fake.out()), ["data.db"]);
    assert!(
        run.err.contains("warning: went around a damaged file"),
        "{run:?}"
    );
    assert!(
        run.err
            .contains("TXID 1b, captured 2026-11-22T20:49:05.543Z"),
        "{run:?}"
    );
    assert_eq!(run.out, "");
    let asked = fake.asked().restored;
    assert_eq!(asked[0].database, Some(id("media/surmai/sqlite/data.db")));
    let point = asked[0].point.as_ref().and_then(|point| point.at);
    assert_eq!(point, Some(v1::point::At::Txid(0x1b)));
}

#[test]
fn a_restore_that_is_not_whole_leaves_no_file() {
    let (_, whole) = parts();
    let without = |index: usize| {
        let mut parts = whole.clone();
        drop(parts.remove(index));
        parts
    };
    let last = whole.len() - 1;
    let with_end = |bytes_total, crc64| {
        let mut parts = whole.clone();
        parts[last] = part(Part::End(v1::RestoreEnd { bytes_total, crc64 }));
        parts
    };
    let failing = |code| {
        let mut parts = whole.clone();
        parts[2] = Err((code, "the replica went away"));
        parts
    };
    let mut changed = whole.clone();
    changed[1] = part(Part::Chunk(vec![7; 5000].into()));
    let mut late = whole.clone();
    late.push(Err((Code::DataLoss, "a file was corrupt after all")));
    let mut twice = whole.clone();
    twice.push(whole[1].clone());
    let mut endless = whole.clone();
    endless.insert(2, whole[1].clone());
    let total = 3 * PAGE as u64;
    for (what, parts, exit) in [
        ("truncated stream", whole[..last].to_vec(), 1),
        ("nothing at all", Vec::new(), 1),
        ("only a header", whole[..1].to_vec(), 1),
        ("no header", without(0), 1),
        ("a chunk is missing", without(2), 1),
        ("wrong checksum", with_end(total, 1), 1),
        ("wrong count", with_end(total - 1, 1), 1),
        ("changed bytes", changed, 1),
        ("more bytes than announced", endless, 1),
        ("an error after the end", late, 1),
        ("bytes after the end", twice, 1),
        ("not found", failing(Code::OutOfRange), 3),
        ("refused", failing(Code::FailedPrecondition), 5),
        ("away", failing(Code::Unavailable), 4),
    ] {
        let fake = Fake::start(Script {
            restore: parts,
            ..cluster()
        });
        let (run, file) = restore(&fake, &[]);
        assert_eq!(run.exit, exit, "{what}: {run:?}");
        assert!(
            nothing_left(&file),
            "{what}: {:?}",
            names(file.parent().unwrap())
        );
        // And what was there before stays, also where it may be replaced.
        fs::write(&file, "precious").unwrap();
        let (run, file) = restore(&fake, &["--force"]);
        assert_eq!(run.exit, exit, "{what}: {run:?}");
        assert_eq!(fs::read(&file).unwrap(), b"precious", "{what}");
        assert_eq!(names(&fake.out()), ["data.db"], "{what}");
    }
}

#[test]
fn a_file_that_exists_is_refused_before_the_agent_is_asked() {
    let (bytes, restore_parts) = parts();
    let fake = Fake::start(Script {
        restore: restore_parts,
        ..cluster()
    });
    let file = fake.out().join("data.db");
    fs::write(&file, "precious").unwrap();
    let (run, _) = restore(&fake, &[]);
    assert_eq!(run.exit, 5, "{run:?}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert!(fake.asked().restored.is_empty());
    let (run, _) = restore(&fake, &["--force"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn a_replica_without_a_pod_can_be_restored() {
    let (bytes, restore_parts) = parts();
    let gone = v1::Replica {
        id: Some(id("old/wiki/data/wiki.db")),
        ..v1::Replica::default()
    };
    let script = Script {
        restore: restore_parts,
        replicas: vec![gone],
        ..cluster()
    };
    let fake = Fake::start(script);
    let file = fake.out().join("wiki.db");
    let run = ask(&fake, &["restore", "wiki", "-o", file.to_str().unwrap()]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let list = ask(&fake, &["list", "--replicas", "-o", "json"]).json();
    assert_eq!(list[0]["replica"], "old/wiki/data/wiki.db");
    let unknown = ask(&fake, &["restore", "nothing", "-o", "x"]);
    assert_eq!(unknown.exit, 3, "{unknown:?}");
}

#[test]
fn sync_does_all_that_a_reference_names() {
    use v1::sync_response::Step;
    let step = |name, step| {
        Ok(v1::SyncResponse {
            database: Some(id(name)),
            step: Some(step),
        })
    };
    let failed = v1::Failure {
        code: Code::FailedPrecondition.into(),
        message: "fenced".into(),
    };
    let script = Script {
        sync: vec![
            step(
                "media/surmai/sqlite/data.db",
                Step::Captured(v1::Captured::default()),
            ),
            step("media/surmai/sqlite/cache.db", Step::Failed(failed)),
            step(
                "media/surmai/sqlite/data.db",
                Step::Done(v1::Shipped { txid: 0x1c }),
            ),
        ],
        ..cluster()
    };
    let fake = Fake::start(script);
    let run = ask(&fake, &["sync", "surmai"]);
    assert_eq!(run.exit, 5, "{run:?}");
    assert_eq!(
        run.out,
        "DATABASE                      TXID\nmedia/surmai/sqlite/data.db     1c\n"
    );
    assert!(
        run.err
            .contains("media/surmai/sqlite/cache.db: failed: fenced"),
        "{run:?}"
    );
    assert_eq!(fake.asked().synced.len(), 2);
    let json = ask(&fake, &["sync", "surmai", "-o", "json"]).json();
    assert_eq!(json[0]["ok"], false);
    assert_eq!(json[1]["txid"], "000000000000001c");
}

#[test]
fn a_database_without_an_end_has_failed() {
    let fake = Fake::start(cluster());
    for verb in ["sync", "verify"] {
        let run = ask(&fake, &[verb, "surmai"]);
        assert_eq!(run.exit, 1, "{run:?}");
        assert_eq!(run.out, "", "a heading over nothing: {run:?}");
        assert!(run.err.contains("ended before its result"), "{run:?}");
    }
}

#[test]
fn verify_prints_what_was_proven() {
    use v1::verify_response::Step;
    let done = v1::Verified {
        txid: 3,
        files: 2,
        pages: 5,
        bytes: 9000,
        checksum: 1 << 63,
        quick_check: Some(v1::QuickCheck {
            outcome: v1::quick_check::Outcome::Ok.into(),
            lines: Vec::new(),
        }),
    };
    let at = v1::Progress {
        bytes_done: 1,
        bytes_total: 9000,
    };
    let database = Some(id("media/surmai/sqlite/data.db"));
    let script = Script {
        verify: vec![
            Ok(v1::VerifyResponse {
                database: database.clone(),
                step: Some(Step::Progress(at)),
            }),
            Ok(v1::VerifyResponse {
                database,
                step: Some(Step::Done(done)),
            }),
        ],
        ..cluster()
    };
    let fake = Fake::start(script);
    let run = ask(&fake, &["verify", "data.db", "-o", "json"]);
    assert_eq!(run.exit, 0, "{run:?}");
    let row = &run.json()[0];
    assert_eq!(row["checksum"], "8000000000000000");
    assert_eq!(
        (row["files"].as_u64(), row["pages"].as_u64()),
        (Some(2), Some(5))
    );
    assert_eq!(row["quick_check"], "ok");
}

#[test]
fn verify_says_whether_the_database_or_nobody_knows_is_the_matter() {
    use v1::quick_check::Outcome;
    use v1::verify_response::Step;
    let answers = |outcome: Outcome, line: &str| {
        let check = v1::QuickCheck {
            outcome: outcome.into(),
            lines: vec![line.to_owned()],
        };
        let done = v1::Verified {
            txid: 3,
            quick_check: Some(check),
            ..v1::Verified::default()
        };
        let script = Script {
            verify: vec![Ok(v1::VerifyResponse {
                database: Some(id("media/surmai/sqlite/data.db")),
                step: Some(Step::Done(done)),
            })],
            ..cluster()
        };
        ask(&Fake::start(script), &["verify", "data.db"])
    };
    let damaged = answers(Outcome::Damaged, "Page 3: \x1b[2J never used");
    assert_eq!(damaged.exit, 1, "{damaged:?}");
    assert!(damaged.out.contains("damaged"), "{damaged:?}");
    for words in [
        "the app's database itself is damaged",
        "Page 3: \\u{1b}[2J never",
        "history",
    ] {
        assert!(damaged.err.contains(words), "{damaged:?}");
    }
    let unknown = answers(Outcome::NotChecked, "there is no room");
    assert_eq!(unknown.exit, 0, "{unknown:?}");
    assert!(unknown.out.contains("not checked"), "{unknown:?}");
    assert!(unknown.err.contains("there is no room"), "{unknown:?}");
    let strange = answers(Outcome::Unspecified, "ok");
    assert!(strange.out.contains("not checked"), "{strange:?}");
}

#[test]
fn history_comes_from_the_agent_too() {
    use v1::history_response::Entry;
    let file = |branch: &str, min_txid, max_txid| v1::ReplicaFile {
        branch: branch.to_owned(),
        level: 0,
        min_txid,
        max_txid,
        time: Some(prost_types::Timestamp {
            seconds: 1_795_380_545,
            nanos: 0,
        }),
        bytes: 2048,
    };
    let entry = |entry| Ok(v1::HistoryResponse { entry: Some(entry) });
    let branch = v1::Branch {
        name: "b".to_owned(),
        from_txid: Some(2),
        head_txid: Some(2),
    };
    let script = Script {
        history: vec![
            entry(Entry::Branch(branch)),
            entry(Entry::File(file("", 1, 1))),
            entry(Entry::File(file("", 3, 3))),
            entry(Entry::File(file("b", 2, 2))),
        ],
        ..cluster()
    };
    let fake = Fake::start(script);
    let run = ask(&fake, &["history", "data.db"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(
        run.out,
        "\
TXID   FROM   LEVEL   TIME                        SIZE   RESTORABLE               COST   BRANCH
   1      1   0       2026-11-22T20:49:05.000Z   2.0Ki   yes           2.0Ki in 1 file   -
   3      3   0       2026-11-22T20:49:05.000Z   2.0Ki   no                          -   -
   2      2   0       2026-11-22T20:49:05.000Z   2.0Ki   yes          4.0Ki in 2 files   b
"
    );
}

#[test]
fn ambiguous_and_unknown_references_have_their_exit_codes() {
    let fake = Fake::start(cluster());
    let run = ask(&fake, &["history", "surmai"]);
    assert_eq!(run.exit, 5, "{run:?}");
    assert!(
        run.err.contains("media/surmai/sqlite/cache.db\n"),
        "{run:?}"
    );
    let run = ask(&fake, &["history", "surmia"]);
    assert_eq!(run.exit, 3, "{run:?}");
    assert!(run.err.contains("near it:"), "{run:?}");
}

#[test]
fn what_the_agent_cannot_do_is_a_failure_that_says_so() {
    let fake = Fake::start(cluster());
    let run = ask(&fake, &["snapshot", "data.db"]);
    assert_eq!(run.exit, 1, "{run:?}");
    assert!(run.err.contains("this agent cannot do it"), "{run:?}");
    let run = ask(&fake, &["takeover", "data.db"]);
    assert_eq!(run.exit, 5, "{run:?}");
    assert!(run.err.contains("no pod waits for it"), "{run:?}");
}

#[test]
fn check_says_what_is_wrong_and_what_to_do() {
    let check = |ok, message: &str, hint: &str| v1::HealthCheck {
        name: "replica-root".to_owned(),
        ok,
        message: message.to_owned(),
        hint: hint.to_owned(),
    };
    let info = |health| v1::InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: "n1".to_owned(),
        health: vec![health],
        ..v1::InfoResponse::default()
    };
    let well = Fake::start(Script {
        info: info(check(true, "", "")),
        databases: vec![database(
            "media/surmai/sqlite/data.db",
            v1::State::Following,
        )],
        ..Script::default()
    });
    assert_eq!(ask(&well, &["check"]).exit, 0);
    let version = ask(&well, &["version", "-o", "json"]).json();
    assert_eq!(version["agent"]["node"], "n1");
    let ill = info(check(false, "not mounted", "mount it"));
    let ill = Fake::start(Script {
        info: ill,
        ..cluster()
    });
    let run = ask(&ill, &["check"]);
    assert_eq!(run.exit, 1, "{run:?}");
    assert!(run.out.contains("FAILED   not mounted"), "{run:?}");
    assert!(run.err.contains("replica-root: mount it"), "{run:?}");
}

#[test]
fn an_agent_that_does_not_answer_in_time_is_unreachable() {
    let fake = Fake::start(Script {
        slow_ms: 60_000,
        ..cluster()
    });
    let run = ask(&fake, &["check", "--timeout", "300ms"]);
    assert_eq!(run.exit, 4, "{run:?}");
    assert!(run.out.contains("no answer in time"), "{run:?}");
}

#[test]
fn watch_tells_each_change_where_nothing_can_be_redrawn() {
    use v1::watch_response::Event;
    let event = |event| Ok(v1::WatchResponse { event: Some(event) });
    let name = "media/surmai/sqlite/data.db";
    let script = Script {
        watch: vec![
            event(Event::Changed(database(name, v1::State::Snapshotting))),
            event(Event::CaughtUp(v1::CaughtUp {})),
            event(Event::Changed(database(name, v1::State::Following))),
            event(Event::Gone(id(name))),
        ],
        ..cluster()
    };
    let fake = Fake::start(script);
    let run = ask(&fake, &["watch"]);
    // The agent went away: a watch never ends well by itself.
    assert_eq!(run.exit, 4, "{run:?}");
    assert_eq!(
        run.out,
        format!(
            "{name} snapshotting txid=1b lag=12ms\n{name} following txid=1b lag=12ms\n{name} gone\n"
        )
    );
    let json = ask(&fake, &["watch", "-o", "json"]);
    let events: Vec<serde_json::Value> = json
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0]["event"], "changed");
    assert_eq!(events[0]["database"]["state"], "snapshotting");
    assert_eq!(events[2]["database"], name);
}
