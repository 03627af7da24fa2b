//! Command lines that make no sense, and those that ask for help.

use crate::support::{sqlrepctl, sqlrepctl_with};

#[test]
fn help_and_version_are_answers() {
    let help = sqlrepctl(&["--help"]);
    assert_eq!((help.exit, help.err.as_str()), (0, ""), "{help:?}");
    for verb in [
        "list", "restore", "history", "sync", "verify", "watch", "check", "takeover", "adopt",
        "version",
    ] {
        assert!(
            help.out.contains(&format!("\n  {verb} ")),
            "{verb} is not offered: {}",
            help.out
        );
    }
    let version = sqlrepctl(&["--version"]);
    assert_eq!(
        version.out,
        format!("sqlrepctl {}\n", env!("CARGO_PKG_VERSION"))
    );
    let own = sqlrepctl(&["version", "-o", "json"]);
    assert_eq!(own.json()["client"], env!("CARGO_PKG_VERSION"));
    assert_eq!(own.exit, 0);
}

#[test]
fn usage_errors_exit_with_2() {
    for line in [
        &["frobnicate"][..],
        &["list"],
        &["restore", "surmai"],
        &[
            "restore",
            "surmai",
            "-o",
            "f",
            "--timestamp",
            "yesterday",
            "--replica",
            "/",
        ],
        &["list", "--agent", "nonsense"],
        &["list", "--agent", "unix:/x", "--replica", "/"],
        &[],
    ] {
        let run = sqlrepctl(line);
        assert_eq!(run.exit, 2, "{line:?}: {run:?}");
        assert!(
            run.out.is_empty() && !run.err.is_empty(),
            "{line:?}: {run:?}"
        );
    }
}

#[test]
fn without_an_agent_it_says_what_to_do() {
    let run = sqlrepctl(&["sync", "surmai"]);
    let words = "no agent given, and no kubeconfig found: use --agent unix:PATH or SQLREP_AGENT";
    assert!(run.err.contains(words), "{run:?}");
}

#[test]
fn an_agent_that_is_not_there_exits_with_4_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let agent = format!("unix:{}", socket.display());
    let missing = sqlrepctl(&["list", "--agent", &agent]);
    assert_eq!(missing.exit, 4, "{missing:?}");
    assert!(
        missing.err.contains(&format!("--listen {agent}")),
        "{missing:?}"
    );

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let refused = sqlrepctl_with(&["list"], ("SQLREP_AGENT", &agent));
    assert_eq!(refused.exit, 4, "{refused:?}");
    assert!(refused.err.contains("is the agent running"), "{refused:?}");

    let version = sqlrepctl(&["version", "-o", "json", "--agent", &agent]);
    assert_eq!(version.exit, 4, "{version:?}");
    assert_eq!(version.json()["client"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_token_never_crosses_the_network_in_the_clear() {
    let arguments = ["list", "--agent", "192.0.2.1:9000"];
    let run = sqlrepctl_with(&arguments, ("SQLREP_TOKEN", "secret"));
    assert_eq!(run.exit, 2, "{run:?}");
    assert!(
        run.err.contains("in the clear") && !run.err.contains("secret"),
        "{run:?}"
    );
}

#[test]
fn completions_are_written_for_a_shell() {
    let run = sqlrepctl(&["completion", "bash"]);
    assert_eq!(run.exit, 0);
    assert!(run.out.contains("_sqlrepctl"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_sqlrepctl"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut words = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut words)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{words}");
    assert_eq!(words, "");
}
