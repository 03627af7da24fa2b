//! The command line, as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sqlrep_format::Txid;

use crate::reference::Reference;

/// List, restore, verify and drive SQLite databases that sqlrep replicates.
#[derive(Debug, Parser)]
#[command(
    name = "sqlrepctl",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 agent or cluster unreachable, 5 refused
(would overwrite, not the owner, ambiguous).
Agents are reached through the kubeconfig, unless --agent or SQLREP_AGENT names one. SQLREP_TOKEN is
sent to the agents instead of a service account's token. NO_COLOR is honoured. Data goes to standard output, progress and words to standard error."
)]
pub(crate) struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What holds for every verb.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The agent to ask: unix:PATH or HOST:PORT [env: SQLREP_AGENT]
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        help_heading = "Global options"
    )]
    pub(crate) agent: Option<String>,
    /// Who signed the certificate of an agent that serves TLS: a file of PEM
    #[arg(long, global = true, value_name = "FILE", env = "SQLREP_TLS_CA",
        requires_all = ["tls_cert", "tls_key"], help_heading = "Global options")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Our own certificate for it, signed by the agent's --client-ca
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SQLREP_TLS_CERT",
        requires = "tls_ca",
        help_heading = "Global options"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of our certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SQLREP_TLS_KEY",
        requires = "tls_ca",
        help_heading = "Global options"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// The context of the kubeconfig; without --agent agents are reached through the cluster
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "agent",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,
    /// The kubeconfig [env: KUBECONFIG] [default: ~/.kube/config]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "agent",
        help_heading = "Global options"
    )]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Only databases of this namespace; without it those of all that you may see
    #[arg(
        long,
        short,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) namespace: Option<String>,
    /// The namespace that sqlrep is installed in
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "SQLREP_NAMESPACE",
        default_value = "sqlrep",
        help_heading = "Global options"
    )]
    pub(crate) sqlrep_namespace: String,
    /// Who to be towards the agents: a service account you may create tokens for
    /// [default: sqlrepctl in the namespace of sqlrep]
    #[arg(long, global = true, value_name = "NAMESPACE/NAME", value_parser = account,
        conflicts_with = "agent", help_heading = "Global options")]
    pub(crate) service_account: Option<Account>,
    /// Give up after this long, as in 30s or 5m. Without it quick questions wait 10s or 30s and
    /// work on data waits as long as the agent is alive
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration,
        help_heading = "Global options")]
    pub(crate) timeout: Option<Duration>,
}

/// The verbs. Those that today's agents answer with "unimplemented" are not shown.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Databases and how far their replicas are
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  sqlrepctl list                            all databases of the cluster
  sqlrepctl list surmai                     those whose name has the part surmai
  sqlrepctl list -n media -o wide           one namespace, every column
  sqlrepctl list --replicas                 replicas that belong to no pod
  sqlrepctl list --replica /mnt/nas/sqlrep  what lies on the share, without an agent
  sqlrepctl list -o json | jq -r '.[] | select(.lag_seconds > 5) | .app'"
    )]
    List(ListArgs),
    /// Write a database, as it was at some point, to a file
    #[command(after_help = "\
Examples:
  sqlrepctl restore surmai -o data.db                      the latest state, through an agent
  sqlrepctl restore surmai -o data.db --timestamp '10m ago'
  sqlrepctl restore surmai -o data.db --timestamp 2026-11-22T20:49:00Z
  sqlrepctl restore --replica /mnt/nas/sqlrep surmai -o data.db    needs nothing but the share
  sqlrepctl restore --replica /mnt/nas/sqlrep/media/surmai/sqlite/data.db -o data.db --txid 1a
  sqlrepctl restore surmai --in-place --timestamp '10m ago'        rewinds the running app's database

--in-place writes the old content over the live database as one commit of its own: the app sees it
at its next read, and what it replaces stays in the history. It asks before it does. A file that exists is left alone unless --force is given; even then it stays until the new one is
complete and proven. --timestamp gives the last state strictly before that time.")]
    Restore(RestoreArgs),
    /// What a replica holds: levels, TXIDs, times, sizes, branches
    #[command(after_help = "\
Examples:
  sqlrepctl history surmai
  sqlrepctl history --replica /mnt/nas/sqlrep media/surmai -o json

COST is what a restore of that state reads.")]
    History(HistoryArgs),
    /// Capture and ship now, and wait until it is on the replica
    #[command(after_help = "\
Examples:
  sqlrepctl sync surmai                     before an upgrade, say
  sqlrepctl sync --all --timeout 30s")]
    Sync(SeveralArgs),
    /// Write a snapshot to the replica now
    #[command(after_help = "\
Examples:
  sqlrepctl snapshot surmai                 a beginning that leans on nothing before it
  sqlrepctl snapshot --all")]
    Snapshot(SeveralArgs),
    /// Read a replica back: every file, page and checksum that a restore would use
    #[command(after_help = "\
Examples:
  sqlrepctl verify surmai
  sqlrepctl verify --all -o json
  sqlrepctl verify surmai --txid 1c                   an older state
  sqlrepctl verify --replica /mnt/nas/sqlrep --all    without an agent

Chain and checksums say that the replica is whole. QUICK-CHECK is what SQLite says of the database that it
restores to: damaged is the app's own database, as it was captured (exit code 1).")]
    Verify(VerifyArgs),
    /// A live table of the databases
    #[command(after_help = "\
Examples:
  sqlrepctl watch                           redrawn in place; ends with Ctrl-C
  sqlrepctl watch -o json                   one JSON object a line for every change")]
    Watch(WatchArgs),
    /// Is everything set up rightly? One line a check, a hint for each failure
    #[command(after_help = "\
Examples:
  sqlrepctl check                           the cluster, its agents, and what they replicate
  sqlrepctl check --agent unix:/run/sqlrep/agent.sock
  sqlrepctl check -o json | jq '.[] | select(.ok | not)'

Exit code 1 when a check fails. A warning fails nothing.")]
    Check(FormatArgs),
    /// Make the waiting pod the owner of its replica
    #[command(after_help = "Example:\n  sqlrepctl takeover media/surmai")]
    Takeover(OneArgs),
    /// Keep a fenced or ungated database: it becomes the owner of its replica
    #[command(after_help = "Example:\n  sqlrepctl adopt media/surmai")]
    Adopt(AdoptArgs),
    /// The version of this program and of the agent
    #[command(after_help = "Examples:\n  sqlrepctl version\n  sqlrepctl version -o json")]
    Version(FormatArgs),
    /// The manual page of the program or of a verb, as troff
    #[command(after_help = "\
Examples:
  sqlrepctl man | man -l -
  sqlrepctl man restore > /usr/local/share/man/man1/sqlrepctl-restore.1")]
    Man {
        /// The verb
        verb: Option<String>,
    },
    /// A completion script for a shell
    #[command(after_help = "\
Examples:
  source <(sqlrepctl completion bash)
  sqlrepctl completion fish > ~/.config/fish/completions/sqlrepctl.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only databases whose name has these parts
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Option<Reference>,
    /// All namespaces; so it is without -n too
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Replicas that belong to no pod instead of databases
    #[arg(long)]
    pub(crate) replicas: bool,
    /// Read this directory instead of asking an agent
    #[arg(long, value_name = "DIR")]
    pub(crate) replica: Option<PathBuf>,
    /// How to print it.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Which state of a database.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PointArgs {
    /// The last state strictly before this time: RFC 3339, a local time, or how long ago
    #[arg(long, value_name = "TIME", conflicts_with = "txid")]
    pub(crate) timestamp: Option<String>,
    /// The state after this TXID, in hex as `history` shows it
    #[arg(long, value_name = "TXID", value_parser = txid)]
    pub(crate) txid: Option<Txid>,
    /// A branch: the unshipped tail of a writer that was fenced
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// Which database; not needed when --replica holds only one
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Option<Reference>,
    /// The file to write
    #[arg(long, short, value_name = "FILE", required_unless_present = "in_place")]
    pub(crate) output: Option<PathBuf>,
    /// Rewind the live database of the running pod, through SQLite
    #[arg(long, conflicts_with_all = ["output", "replica", "force"])]
    pub(crate) in_place: bool,
    /// Do not ask before a rewind
    #[arg(long, short, requires = "in_place")]
    pub(crate) yes: bool,
    /// Read this directory instead of asking an agent: a replica, or a root with many
    #[arg(long, value_name = "DIR")]
    pub(crate) replica: Option<PathBuf>,
    /// Which state.
    #[command(flatten)]
    pub(crate) point: PointArgs,
    /// Overwrite FILE, once the new one is complete and proven
    #[arg(long)]
    pub(crate) force: bool,
    /// How to print the summary: in words, or as data on standard output
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

/// Arguments of `history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Which database; not needed when --replica holds only one
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Option<Reference>,
    /// Read this directory instead of asking an agent
    #[arg(long, value_name = "DIR")]
    pub(crate) replica: Option<PathBuf>,
    /// How to print it.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of verbs that work on several databases.
#[derive(Args, Debug)]
pub(crate) struct SeveralArgs {
    /// Which databases; one REF may name several
    #[arg(value_name = "REF", value_parser = reference, required_unless_present = "all",
        conflicts_with = "all")]
    pub(crate) references: Vec<Reference>,
    /// All databases
    #[arg(long)]
    pub(crate) all: bool,
    /// How to print it.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Which databases; one REF may name several; not needed when --replica holds only one
    #[arg(value_name = "REF", value_parser = reference, conflicts_with = "all")]
    pub(crate) references: Vec<Reference>,
    /// All databases
    #[arg(long)]
    pub(crate) all: bool,
    /// Read this directory instead of asking an agent
    #[arg(long, value_name = "DIR")]
    pub(crate) replica: Option<PathBuf>,
    /// Which state.
    #[command(flatten)]
    pub(crate) point: PointArgs,
    /// How to print it.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Only databases whose name has these parts
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Option<Reference>,
    /// How to print it.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of verbs that work on one database.
#[derive(Args, Debug)]
pub(crate) struct OneArgs {
    /// Which database
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Reference,
}

/// Arguments of `adopt`.
#[derive(Args, Debug)]
pub(crate) struct AdoptArgs {
    /// Which database
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Reference,
    /// A replica that Litestream wrote, as the agent sees it
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) litestream: Option<String>,
}

/// How data is printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct FormatArgs {
    /// How to print it
    #[arg(
        long = "output",
        short = 'o',
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) format: Format,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err("accepted is NAMESPACE/NAME, as in media/operator".to_owned()),
    }
}

fn reference(text: &str) -> Result<Reference, String> {
    Reference::parse(text)
}

fn txid(text: &str) -> Result<Txid, String> {
    text.parse()
        .map_err(|error| format!("{error}; `sqlrepctl history` shows those there are"))
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("must be more than nothing".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; accepted is such as 500ms, 30s, 1h 30m")),
    }
}

#[cfg(test)]
mod tests;
