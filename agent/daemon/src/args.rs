//! The raw command line: what clap can say of it. [`crate::config`] checks the rest.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::units::{parse_duration, parse_size};

/// Replicates the SQLite databases of this node's pods.
#[derive(Debug, Parser)]
#[command(name = "sqlrep-agent", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs of `sqlrep-agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent: find databases, replicate them, restore them, serve sqlrepctl.
    Run(Box<RunArgs>),
    /// Wait until this pod's databases are restored (the init container).
    Gate(GateArgs),
    /// Show the whole story on this machine: no cluster, under 30 seconds, nothing left behind.
    Demo(DemoArgs),
    /// The process that writes another state into a live database; the agent starts it.
    #[command(hide = true, name = sqlrep_pipeline::REWIND_VERB)]
    Rewind(RewindArgs),
    /// The process that has SQLite look at a restored database; the agent starts it.
    #[command(hide = true, name = sqlrep_pipeline::QUICK_CHECK_VERB)]
    QuickCheck {
        /// The database file, which nobody changes.
        file: PathBuf,
    },
    /// An agent of the demo: `run` that ends when its standard input is closed.
    #[command(hide = true)]
    DemoAgent(Box<RunArgs>),
    /// The writing app of the demo.
    #[command(hide = true)]
    DemoApp(DemoAppArgs),
}

/// Raw arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Name of this node [default: the host name].
    #[arg(
        long,
        env = "SQLREP_NODE_NAME",
        value_name = "NAME",
        help_heading = "What to replicate"
    )]
    pub(crate) node_name: Option<String>,
    /// Where pods are read from: the cluster's API, or a directory of v1/Pod manifests
    /// (.yaml or .json), which is watched.
    #[arg(
        long,
        env = "SQLREP_PODS",
        value_name = "kube|dir:PATH",
        default_value = "kube",
        help_heading = "What to replicate"
    )]
    pub(crate) pods: String,
    /// The kubelet's directory; volumes are found under its `pods`.
    #[arg(
        long,
        env = "SQLREP_KUBELET_ROOT",
        value_name = "DIR",
        default_value = "/var/lib/kubelet",
        help_heading = "What to replicate"
    )]
    pub(crate) kubelet_root: PathBuf,

    /// Where replicas are kept: a directory on the NAS.
    #[arg(
        long,
        env = "SQLREP_REPLICA_ROOT",
        value_name = "DIR",
        default_value = "/replicas",
        help_heading = "Where to"
    )]
    pub(crate) replica_root: PathBuf,
    /// Uid that owns the files of replicas [default: that of the agent].
    #[arg(
        long,
        env = "SQLREP_REPLICA_UID",
        value_name = "UID",
        help_heading = "Where to"
    )]
    pub(crate) replica_uid: Option<u32>,
    /// Gid that owns the files of replicas [default: that of the agent].
    #[arg(
        long,
        env = "SQLREP_REPLICA_GID",
        value_name = "GID",
        help_heading = "Where to"
    )]
    pub(crate) replica_gid: Option<u32>,
    /// The agent's own directory, on the node's disk: spool and ledger.
    #[arg(
        long,
        env = "SQLREP_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/sqlrep",
        help_heading = "Where to"
    )]
    pub(crate) state_dir: PathBuf,

    /// At most this long passes between a commit and its file on the replica, under load.
    #[arg(long, env = "SQLREP_SYNC_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) sync_interval: Duration,
    /// How long single-commit files are kept beside the compacted ones.
    #[arg(long, env = "SQLREP_L0_RETENTION", value_name = "TIME", default_value = "5m", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) l0_retention: Duration,
    /// The steps of the compacted levels, finest first.
    #[arg(long, env = "SQLREP_LEVELS", value_name = "TIMES", value_delimiter = ',', default_value = "30s,5m,1h", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) levels: Vec<Duration>,
    /// How often a snapshot is written.
    #[arg(long, env = "SQLREP_SNAPSHOT_INTERVAL", value_name = "TIME", default_value = "24h", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) snapshot_interval: Duration,
    /// How far back a replica can be restored.
    #[arg(long, env = "SQLREP_RETENTION", value_name = "TIME", default_value = "7d", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) retention: Duration,
    /// How long a branch is kept that nothing is written to, and a damaged file that was set aside.
    #[arg(long, env = "SQLREP_BRANCH_RETENTION", value_name = "TIME", default_value = "30d", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) branch_retention: Duration,
    /// How often each replica is read back whole; 0s: never.
    #[arg(long, env = "SQLREP_VERIFY_INTERVAL", value_name = "TIME", default_value = "24h", value_parser = parse_duration, help_heading = "Pace")]
    pub(crate) verify_interval: Duration,

    /// Bytes the spool may hold while the NAS is away.
    #[arg(long, env = "SQLREP_SPOOL_LIMIT", value_name = "SIZE", default_value = "10Gi", value_parser = parse_size, help_heading = "Limits")]
    pub(crate) spool_limit: u64,
    /// Size of a WAL from which the app's writers are held for milliseconds to shrink it.
    #[arg(long, env = "SQLREP_WAL_LIMIT", value_name = "SIZE", default_value = "256Mi", value_parser = parse_size, help_heading = "Limits")]
    pub(crate) wal_limit: u64,
    /// How long a drain may take: after SIGTERM, or when a pod goes away.
    #[arg(long, env = "SQLREP_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) drain_timeout: Duration,

    /// Where sqlrepctl is served: unix:PATH or ADDRESS:PORT; may be given several times
    /// [default: unix:STATE_DIR/agent.sock].
    #[arg(
        long,
        env = "SQLREP_LISTEN",
        value_name = "unix:PATH|ADDR:PORT",
        value_delimiter = ',',
        help_heading = "Serving"
    )]
    pub(crate) listen: Vec<String>,
    /// Who says what a caller on an ADDR:PORT may do: the cluster's API, or nobody
    /// [default: kube with --pods kube, else none].
    #[arg(
        long,
        env = "SQLREP_AUTH",
        value_name = "kube|none",
        help_heading = "Serving"
    )]
    pub(crate) auth: Option<Auth>,
    /// Certificate chain (PEM) for --listen addresses other than loopback.
    #[arg(
        long,
        env = "SQLREP_TLS_CERT",
        value_name = "FILE",
        help_heading = "Serving"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert.
    #[arg(
        long,
        env = "SQLREP_TLS_KEY",
        value_name = "FILE",
        help_heading = "Serving"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authority (PEM) that signs the certificates of clients.
    #[arg(
        long,
        env = "SQLREP_CLIENT_CA",
        value_name = "FILE",
        help_heading = "Serving"
    )]
    pub(crate) client_ca: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz over HTTP here [default: not served].
    #[arg(
        long,
        env = "SQLREP_METRICS",
        value_name = "ADDR:PORT",
        help_heading = "Serving"
    )]
    pub(crate) metrics: Option<String>,
    /// Format of log lines on stderr; RUST_LOG chooses which (default: info).
    #[arg(
        long,
        env = "SQLREP_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Serving"
    )]
    pub(crate) log_format: LogFormat,
}

/// Arguments of `gate`.
#[derive(Args, Debug)]
pub(crate) struct GateArgs {
    /// UID of this pod, from the downward API (metadata.uid).
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub(crate) pod_uid: String,
    /// The file that the agent writes.
    #[arg(
        long,
        env = "SQLREP_STATUS",
        value_name = "FILE",
        default_value = "/sqlrep/status.json"
    )]
    pub(crate) status: PathBuf,
    /// Name of this node, for messages, from the downward API (spec.nodeName).
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Where Kubernetes reads the last words of a container that failed.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub(crate) termination_log: PathBuf,
}

/// Arguments of a rewind.
#[derive(Args, Debug)]
pub(crate) struct RewindArgs {
    /// The database file with the wanted state.
    pub(crate) source: PathBuf,
    /// The volume of the live database.
    pub(crate) volume: PathBuf,
    /// Its path there.
    pub(crate) path: PathBuf,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Show the agents' own log lines too.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Where the demo makes its temporary directory [default: TMPDIR or /tmp].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of the demo's app.
#[derive(Args, Debug)]
pub(crate) struct DemoAppArgs {
    /// The database to write to.
    #[arg(long, value_name = "FILE")]
    pub(crate) db: PathBuf,
    /// Rows committed per second.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) rows_per_second: u32,
    /// Do not write: print the number of rows and their digest.
    #[arg(long)]
    pub(crate) digest: bool,
}

/// Who is asked what a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Auth {
    /// The cluster's API.
    Kube,
    /// Nobody.
    None,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
