//! With `--log-format json` whoever reads the lines need know nothing else: each is an object.

use std::process::{Command, Stdio};

use serde_json::Value;

/// The lines of a run that ends by itself, and its exit code.
fn lines(args: &[&str], variables: &[(&str, &str)]) -> (Vec<Value>, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sqlrep-agent"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("SQLREP_LOG_FORMAT");
    command.envs(variables.iter().copied());
    let said = command.output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    let parsed = text.lines().map(|line| {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "target"] {
            assert!(object[key].is_string(), "no {key}: {line}");
        }
        object
    });
    (parsed.collect(), said.status.code())
}

/// What the last line says.
fn last(lines: &[Value]) -> &str {
    lines
        .last()
        .and_then(|line| line["fields"]["message"].as_str())
        .unwrap_or_default()
}

#[test]
fn an_agent_that_cannot_start_says_so_in_json() {
    let json = ["run", "--log-format", "json"];
    let (said, code) = lines(&[&json[..], &["--no-such-flag"]].concat(), &[]);
    assert!(
        code == Some(2) && last(&said).contains("--no-such-flag"),
        "{said:?}"
    );
    let variable = [("SQLREP_LOG_FORMAT", "json")];
    let (said, code) = lines(&["run", "--sync-interval", "soon"], &variable);
    assert!(code == Some(2) && last(&said).contains("soon"), "{said:?}");
    // Checked by ourselves, not by the parser of arguments.
    let (said, code) = lines(&[&json[..], &["--listen", "nowhere"]].concat(), &[]);
    assert!(
        code == Some(2) && last(&said).contains("nowhere"),
        "{said:?}"
    );

    // Past the arguments: a file is where the state should be.
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    for name in ["pods", "nas"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("file"), "").unwrap();
    let (pods, state, nas) = (format!("dir:{}", at("pods")), at("file/state"), at("nas"));
    let more = [
        "--pods",
        &pods,
        "--state-dir",
        &state,
        "--replica-root",
        &nas,
    ];
    let (said, code) = lines(&[&json[..], &more].concat(), &[("RUST_LOG", "off")]);
    assert!(code == Some(1) && last(&said).contains("state"), "{said:?}");
    let (said, _) = lines(&[&json[..], &more].concat(), &[("RUST_LOG", "sqlrep=[")]);
    assert!(
        said[0]["fields"]["message"]
            .as_str()
            .unwrap()
            .contains("RUST_LOG"),
        "{said:?}"
    );
}

#[test]
fn help_is_for_people_all_the_same() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sqlrep-agent"));
    let said = command
        .args(["run", "--log-format", "json", "--help"])
        .output()
        .unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
}
