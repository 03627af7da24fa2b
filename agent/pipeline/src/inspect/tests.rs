//! What is made of the words of a process that may be anybody's.

use std::process::Command;

use super::*;

async fn heard(script: &str, patience: Duration) -> QuickCheck {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    listen(Process::spawn(command).unwrap(), patience).await
}

async fn said(script: &str) -> QuickCheck {
    heard(script, Duration::from_secs(30)).await
}

fn is_not_checked(check: &QuickCheck, words: &str) -> bool {
    matches!(check, QuickCheck::NotChecked(reason) if reason.contains(words))
}

#[tokio::test]
async fn ok_and_nothing_else_is_ok() {
    assert_eq!(
        said("printf 'ready\\nfound ok\\ndone\\n'").await,
        QuickCheck::Ok
    );
    let lines = vec!["ok".to_owned(), "Page 3: never used".to_owned()];
    assert_eq!(
        said("printf 'ready\\nfound ok\\nfound Page 3: never used\\ndone\\n'").await,
        QuickCheck::Damaged(lines)
    );
}

#[tokio::test]
async fn a_process_that_ends_early_or_is_killed_or_talks_nonsense_says_nothing_good() {
    for script in [
        "",
        "printf 'ready\\n'",
        "printf 'ready\\nfound ok\\n'",
        "printf 'ready\\nfound ok\\ndone'",
        "printf 'ready\\nfound ok\\n'; kill -9 $$",
        "printf 'found ok\\ndone\\n'",
        "printf 'ready\\ndone\\n'",
        "printf 'ok\\n'",
        "printf 'ready\\nready\\nfound ok\\ndone\\n'",
        "head -c 100000 /dev/zero",
        "printf 'ready\\nfound '; head -c 100000 /dev/zero; printf '\\ndone\\n'",
    ] {
        let check = said(script).await;
        assert!(
            matches!(check, QuickCheck::NotChecked(_)),
            "{script}: {check:?}"
        );
    }
    let failed = said("printf 'ready\\nfailed SQLite says: out of memory\\n'").await;
    assert!(is_not_checked(&failed, "out of memory"), "{failed:?}");
}

#[tokio::test]
async fn a_process_that_hangs_is_ended_and_said() {
    for script in ["sleep 600", "printf 'ready\\nfound ok\\n'; sleep 600"] {
        let begun = Instant::now();
        let check = heard(script, Duration::from_millis(300)).await;
        assert!(
            is_not_checked(&check, "not done after"),
            "{script}: {check:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn what_sqlite_says_is_bounded_and_commands_nobody() {
    let many = said("echo ready; while echo found x; do :; done").await;
    assert!(is_not_checked(&many, "it said"), "{many:?}");
    let long =
        said("echo ready; printf 'found '; head -c 5000 /dev/zero | tr '\\0' x; echo; echo done")
            .await;
    assert!(
        matches!(&long, QuickCheck::Damaged(lines) if lines[0].len() == LINE_CHARS_MAX),
        "{long:?}"
    );
    assert_eq!(
        bounded("a\x1b[2J\u{202e}\t\"ü\" 'x'"),
        "a\\u{1b}[2J\\u{202e}\\t\"ü\" 'x'"
    );
}

#[test]
fn a_scratch_file_is_there_once_and_goes_with_its_bench() {
    let dir = tempfile::tempdir().unwrap();
    let benches = Benches::new(dir.path().to_owned());
    let taken: Vec<_> = std::iter::from_fn(|| benches.free()).collect();
    assert_eq!(taken.len(), limits::CHECKS_MAX);
    let subjects: Vec<_> = taken
        .into_iter()
        .map(|bench| bench.subject().unwrap())
        .collect();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        limits::CHECKS_MAX
    );
    assert!(benches.free().is_none());
    drop(subjects);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(benches.free().is_some());
}

#[test]
fn a_scratch_file_takes_what_nobody_needs_of_a_disk() {
    assert_eq!(room_blocks(1_000, 1_000), 840);
    assert_eq!(room_blocks(1_000, 200), 40);
    assert_eq!(room_blocks(1_000, 160), 10, "a part of what is free");
    assert_eq!(room_blocks(0, 0), 0);
}
