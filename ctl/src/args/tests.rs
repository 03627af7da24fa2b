//! What the command line accepts.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, ErrorKind> {
    let words = std::iter::once("sqlrepctl").chain(line.split_whitespace());
    Cli::try_parse_from(words).map_err(|error| error.kind())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn accepted_lines() {
    for line in [
        "list",
        "ls -A",
        "list -n media -o wide",
        "list --replicas -o yaml",
        "list --replica /r",
        "restore surmai -o f",
        "restore --replica /r -o f --txid 1a",
        "restore media/surmai --output f --timestamp 10m --branch b --force --format json",
        "restore surmai --in-place",
        "history surmai",
        "history --replica /r",
        "sync a b --agent unix:/s --timeout 5s",
        "--agent unix:/s sync --all",
        "snapshot a",
        "verify --all",
        "verify --replica /r",
        "watch",
        "check",
        "takeover a",
        "adopt a --litestream /x",
        "version -o json",
        "completion bash",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
    }
}

#[test]
fn refused_lines() {
    use ErrorKind::{
        ArgumentConflict, InvalidSubcommand, InvalidValue, MissingRequiredArgument, ValueValidation,
    };
    for (line, kind) in [
        ("restore surmai", MissingRequiredArgument),
        ("restore surmai -o f --in-place", ArgumentConflict),
        ("restore surmai --in-place --force", ArgumentConflict),
        (
            "restore surmai -o f --txid 1 --timestamp 10m",
            ArgumentConflict,
        ),
        ("restore surmai -o f --txid zz", ValueValidation),
        ("restore surmai -o f --txid 0", ValueValidation),
        ("restore a//b -o f", ValueValidation),
        ("sync", MissingRequiredArgument),
        ("sync a --all", ArgumentConflict),
        ("verify a --all", ArgumentConflict),
        ("list -n a -A", ArgumentConflict),
        ("list -o xml", InvalidValue),
        ("list --timeout 5", ValueValidation),
        ("list --timeout 0s", ValueValidation),
        ("frobnicate", InvalidSubcommand),
        ("takeover", MissingRequiredArgument),
    ] {
        assert_eq!(parse(line).unwrap_err(), kind, "{line}");
    }
}

#[test]
fn every_verb_has_examples() {
    for verb in Cli::command().get_subcommands() {
        let help = verb
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(help.contains("Example"), "{} has none", verb.get_name());
        assert!(
            help.contains(&format!("sqlrepctl {}", verb.get_name())),
            "{}",
            verb.get_name()
        );
    }
}
