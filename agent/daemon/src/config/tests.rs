//! The table of good and bad arguments.

use clap::{CommandFactory, Parser};

use super::*;
use crate::args::{Cli, Command};

fn run(args: &[&str]) -> Result<Config, String> {
    let all = ["sqlrep-agent", "run"].iter().chain(args);
    let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
    match cli.command {
        Command::Run(args) => args.check().map_err(|error| error.to_string()),
        other => panic!("parsed as {other:?}"),
    }
}

/// A good command line, and what is put after it.
fn with(args: &[&str]) -> Result<Config, String> {
    let mut all = vec!["--node-name", "n1", "--pods", "dir:/p"];
    all.extend(args);
    run(&all)
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = with(&[]).unwrap();
    assert_eq!(
        config,
        Config {
            node_name: "n1".to_owned(),
            pods: PodsSource::Dir("/p".into()),
            kubelet_root: "/var/lib/kubelet".into(),
            replica_root: "/replicas".into(),
            replica_owner: None,
            state_dir: "/var/lib/sqlrep".into(),
            sync_interval: Duration::from_secs(1),
            l0_retention: Duration::from_mins(5),
            branch_retention: Duration::from_hours(720),
            levels: [
                Duration::from_secs(30),
                Duration::from_mins(5),
                Duration::from_hours(1)
            ]
            .into(),
            verify_interval: Some(Duration::from_hours(24)),
            snapshot_interval: Duration::from_hours(24),
            retention: Duration::from_hours(7 * 24),
            spool_bytes_max: 10 << 30,
            wal_bytes_max: 256 << 20,
            drain_timeout: Duration::from_secs(30),
            listen: vec![Listen::Unix("/var/lib/sqlrep/agent.sock".into())],
            auth: Auth::None,
            tls: None,
            metrics: None,
            log_format: LogFormat::Text,
        }
    );
}

#[test]
fn good_values_are_taken() {
    let config = with(&[
        "--listen",
        "unix:/run/a.sock",
        "--listen",
        "127.0.0.1:7077",
        "--listen",
        "[::1]:7077",
        "--metrics",
        "0.0.0.0:9090",
        "--spool-limit",
        "512Mi",
        "--sync-interval",
        "250ms",
        "--retention",
        "30d",
        "--replica-uid",
        "65532",
        "--replica-gid",
        "65533",
        "--log-format",
        "json",
    ])
    .unwrap();
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["unix:/run/a.sock", "127.0.0.1:7077", "[::1]:7077"]);
    assert_eq!(config.metrics, Some("0.0.0.0:9090".parse().unwrap()));
    assert_eq!(config.spool_bytes_max, 512 << 20);
    assert_eq!(config.sync_interval, Duration::from_millis(250));
    assert_eq!(config.retention, Duration::from_hours(30 * 24));
    assert_eq!(config.replica_owner, Some((65532, 65533)));
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn open_addresses_need_tls_and_get_it() {
    let refused = with(&["--listen", "0.0.0.0:7077"]).unwrap_err();
    assert!(
        refused.contains("--listen") && refused.contains("--client-ca"),
        "{refused}"
    );
    let tls = ["--tls-cert", "c", "--tls-key", "k", "--client-ca", "a"];
    let config = with(&[&["--listen", "10.0.0.1:7077"], &tls[..]].concat()).unwrap();
    assert_eq!(config.tls.unwrap().client_ca, PathBuf::from("a"));
    for left_out in 0..3 {
        let mut some = tls.to_vec();
        some.drain(left_out * 2..left_out * 2 + 2);
        let refused = with(&some).unwrap_err();
        assert!(refused.starts_with(tls[left_out * 2]), "{refused}");
    }
}

#[test]
fn bad_values_name_the_flag_and_what_to_write_instead() {
    let long = format!("unix:/{}", "x".repeat(107));
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--node-name", "Node_1"], "--node-name", "lower-case"),
        (&["--node-name", ""], "--node-name", "lower-case"),
        (&["--pods", "cube"], "--pods", "dir:PATH"),
        (&["--pods", "file:/x"], "--pods", "dir:PATH"),
        (&["--pods", "dir:"], "--pods", "dir:PATH"),
        (&["--listen", "localhost"], "--listen", "127.0.0.1:7077"),
        (&["--listen", &long], "--listen", "shorter"),
        (&["--listen", "unix:"], "--listen", ""),
        (
            &["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1"],
            "--listen",
            "twice",
        ),
        (&["--metrics", "9090"], "--metrics", "IP:PORT"),
        (&["--sync-interval", "1"], "--sync-interval", "1s"),
        (&["--sync-interval", "0s"], "--sync-interval", "10ms"),
        (&["--sync-interval", "2h"], "--sync-interval", "1h"),
        (&["--retention", "0s"], "--retention", "1s"),
        (&["--levels", "5m,30s"], "--levels", "longer than"),
        (&["--levels", "0s"], "--levels", "from 1s up"),
        (&["--l0-retention", "8d"], "--l0-retention", "--retention"),
        (&["--spool-limit", "10GB"], "--spool-limit", "256Mi"),
        (
            &["--spool-limit", "99999999Ti"],
            "--spool-limit",
            "16 exabytes",
        ),
        (&["--spool-limit", "1Mi"], "--spool-limit", "16Mi"),
        (&["--wal-limit=-1"], "--wal-limit", ""),
        (&["--wal-limit", "1Ki"], "--wal-limit", "4Mi"),
        (&["--drain-timeout", "0s"], "--drain-timeout", "1h"),
        (&["--replica-uid", "1"], "--replica-gid", "both"),
        (&["--replica-gid", "1"], "--replica-uid", "both"),
        (
            &["--state-dir", "/replicas/state"],
            "--state-dir",
            "node's own disk",
        ),
        (
            &["--replica-root", "/var/lib/sqlrep"],
            "--state-dir",
            "node's own disk",
        ),
        (&["--log-format", "xml"], "--log-format", "json"),
        (&["--no-such"], "--no-such", ""),
    ];
    for (args, flag, advice) in cases {
        let mut all = vec!["--node-name", "n1", "--pods", "dir:/p"];
        // A flag given twice is an error of its own: the case's value replaces the default's.
        if args.first().is_some_and(|first| all.contains(first)) {
            let place = all.iter().position(|arg| *arg == args[0]).unwrap();
            all.drain(place..place + 2);
        }
        all.extend(*args);
        let refused = run(&all).expect_err(flag);
        assert!(refused.contains(flag), "{args:?}: {refused}");
        assert!(refused.contains(advice), "{args:?}: {refused}");
    }
}

#[test]
fn every_flag_of_run_has_its_variable_and_its_heading() {
    Cli::command().debug_assert();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let mut flags = 0;
    for arg in run.get_arguments().filter(|arg| arg.get_id() != "help") {
        let name = arg.get_long().unwrap().to_uppercase().replace('-', "_");
        assert_eq!(
            arg.get_env().unwrap().to_str().unwrap(),
            format!("SQLREP_{name}")
        );
        assert!(arg.get_help_heading().is_some(), "{name}");
        flags += 1;
    }
    assert_eq!(flags, 24);
}

#[test]
fn sizes_and_durations_are_read_and_written() {
    use crate::units::{parse_duration, parse_size};
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("1Ki", 1024),
        ("10Gi", 10 << 30),
        ("3M", 3_000_000),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "Gi",
        "1.5Gi",
        "1 Gi",
        "1gi",
        "１Gi",
        "18446744073709551616",
    ] {
        assert!(parse_size(text).is_err(), "{text}");
    }
    assert_eq!(format_size(10 << 30), "10Gi");
    assert_eq!(format_size(1025), "1025");
    assert_eq!(parse_duration("7d"), Ok(Duration::from_hours(7 * 24)));
    assert_eq!(format_duration(Duration::from_hours(24)), "1day");
}
