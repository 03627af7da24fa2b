//! Command line and environment → a checked [`Config`].
//!
//! Two steps: [`crate::args`] reads raw arguments, [`RunArgs::check`] turns them into values that later
//! code can rely on. Every complaint names the flag, the reason and the next step.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::args::RunArgs;
pub(crate) use crate::args::{Auth, LogFormat};
use crate::units::{format_duration, format_size};

/// A longer name is no Kubernetes node name (DNS-1123 subdomain).
const NODE_NAME_BYTES_MAX: usize = 253;

/// `sun_path` holds 108 bytes and ends with a zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Sockets one agent serves; a pod has a loopback, a unix socket and perhaps one address.
const LISTEN_MAX: usize = 16;

/// Less would publish more files than a NAS can take; 1 ms is already far below a publish.
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// More than this is a mistyped unit: loss after a crash is bounded by it.
const SYNC_INTERVAL_MAX: Duration = Duration::from_hours(1);

/// Levels between single captures and snapshots.
const LEVELS_MAX: usize = 8;
/// A ledger, one first snapshot and some commits need room.
const SPOOL_LIMIT_MIN: u64 = 16 << 20;

/// The agent checkpoints from 1 MiB on; an emergency size below 4 MiB would always be an emergency.
const WAL_LIMIT_MIN: u64 = 4 << 20;

/// Longer than any kubelet waits for a pod to go.
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// Where pods come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodsSource {
    /// The API server of the cluster.
    Kube,
    /// A directory of v1/Pod manifests.
    Dir(PathBuf),
}

/// One place where gRPC is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A unix socket, for its owner only.
    Unix(PathBuf),
    /// A TCP address; anything but loopback is served with TLS only.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = absolute(Path::new(path))?;
            let bytes = path.as_os_str().len();
            if bytes > SOCKET_PATH_BYTES_MAX {
                return Err(format!(
                    "the path of a unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes, this one has {bytes}; choose a shorter one"
                ));
            }
            return Ok(Self::Unix(path));
        }
        parse_address(text).map(Self::Tcp)
    }
}

/// Files of the TLS listener; clients must show a certificate of `client_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Certificate chain, PEM.
    pub(crate) cert: PathBuf,
    /// Private key, PEM.
    pub(crate) key: PathBuf,
    /// Authority of client certificates, PEM.
    pub(crate) client_ca: PathBuf,
}

/// Everything `run` needs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Name of this node.
    pub(crate) node_name: String,
    /// Where pods come from.
    pub(crate) pods: PodsSource,
    /// The kubelet's directory.
    pub(crate) kubelet_root: PathBuf,
    /// Where replicas are kept.
    pub(crate) replica_root: PathBuf,
    /// Uid and gid for replica files.
    pub(crate) replica_owner: Option<(u32, u32)>,
    /// Spool and ledger.
    pub(crate) state_dir: PathBuf,
    /// Longest time between two L0 files under load.
    pub(crate) sync_interval: Duration,
    /// How long L0 files are kept.
    pub(crate) l0_retention: Duration,
    /// The steps of the compacted levels, finest first.
    pub(crate) levels: Vec<Duration>,
    /// How often a snapshot is due.
    pub(crate) snapshot_interval: Duration,
    /// How far back the history reaches.
    pub(crate) retention: Duration,
    /// How long what lies beside a chain is kept.
    pub(crate) branch_retention: Duration,
    /// How often each replica is read back; `None`: never.
    pub(crate) verify_interval: Option<Duration>,
    /// Bytes of the spool.
    pub(crate) spool_bytes_max: u64,
    /// Emergency size of a WAL.
    pub(crate) wal_bytes_max: u64,
    /// Bound of a drain.
    pub(crate) drain_timeout: Duration,
    /// Where gRPC is served.
    pub(crate) listen: Vec<Listen>,
    /// Who is asked what a caller may do.
    pub(crate) auth: Auth,
    /// TLS for addresses other than loopback.
    pub(crate) tls: Option<TlsFiles>,
    /// Where metrics and probes are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// Format of log lines.
    pub(crate) log_format: LogFormat,
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{flag}: {reason}")]
pub(crate) struct ConfigError {
    flag: &'static str,
    reason: String,
}

/// Shorthand for a complaint.
fn wrong<T>(flag: &'static str, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError {
        flag,
        reason: reason.into(),
    })
}

impl RunArgs {
    /// Checks what clap could not: values in themselves, and against each other.
    pub(crate) fn check(self) -> Result<Config, ConfigError> {
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        check_node_name(&node_name)?;
        let pods = check_pods(&self.pods)?;
        let auth = self.auth.unwrap_or(usual_auth(&pods));
        let path = |flag, path: &Path| absolute(path).or_else(|reason| wrong(flag, reason));
        let kubelet_root = path("--kubelet-root", &self.kubelet_root)?;
        let replica_root = path("--replica-root", &self.replica_root)?;
        let state_dir = path("--state-dir", &self.state_dir)?;
        check_apart(&state_dir, &replica_root)?;
        self.check_pace()?;
        self.check_limits()?;
        let tls = self.check_tls()?;
        let listen = self.check_listen(&state_dir, tls.as_ref())?;
        let replica_owner = match (self.replica_uid, self.replica_gid) {
            (Some(uid), Some(gid)) => Some((uid, gid)),
            (None, None) => None,
            (Some(_), None) => {
                return wrong(
                    "--replica-gid",
                    "is missing; --replica-uid needs it, give both",
                );
            }
            (None, Some(_)) => {
                return wrong(
                    "--replica-uid",
                    "is missing; --replica-gid needs it, give both",
                );
            }
        };
        let metrics = match &self.metrics {
            Some(text) => Some(parse_address(text).or_else(|reason| wrong("--metrics", reason))?),
            None => None,
        };
        Ok(Config {
            node_name,
            pods,
            kubelet_root,
            replica_root,
            replica_owner,
            state_dir,
            sync_interval: self.sync_interval,
            l0_retention: self.l0_retention,
            levels: self.levels,
            snapshot_interval: self.snapshot_interval,
            verify_interval: Some(self.verify_interval).filter(|every| !every.is_zero()),
            retention: self.retention,
            branch_retention: self.branch_retention,
            spool_bytes_max: self.spool_limit,
            wal_bytes_max: self.wal_limit,
            drain_timeout: self.drain_timeout,
            listen,
            auth,
            tls,
            metrics,
            log_format: self.log_format,
        })
    }

    fn check_pace(&self) -> Result<(), ConfigError> {
        if !(SYNC_INTERVAL_MIN..=SYNC_INTERVAL_MAX).contains(&self.sync_interval) {
            return wrong(
                "--sync-interval",
                format!(
                    "is {}; choose between {} and {}",
                    format_duration(self.sync_interval),
                    format_duration(SYNC_INTERVAL_MIN),
                    format_duration(SYNC_INTERVAL_MAX)
                ),
            );
        }
        for (flag, value) in [
            ("--l0-retention", self.l0_retention),
            ("--snapshot-interval", self.snapshot_interval),
            ("--retention", self.retention),
            ("--branch-retention", self.branch_retention),
        ] {
            if value < Duration::from_secs(1) {
                let given = format_duration(value);
                return wrong(flag, format!("is {given}; the least is 1s"));
            }
        }
        let rises = self
            .levels
            .windows(2)
            .all(|pair| pair.first() < pair.last());
        let least = self.levels.iter().min().copied().unwrap_or_default();
        if !(1..=LEVELS_MAX).contains(&self.levels.len())
            || !rises
            || least < Duration::from_secs(1)
        {
            return wrong(
                "--levels",
                format!(
                    "takes 1 to {LEVELS_MAX} times from 1s up, each longer than the one before"
                ),
            );
        }
        if self.l0_retention > self.retention {
            return wrong(
                "--l0-retention",
                format!(
                    "is {}, longer than --retention ({}); files cannot outlive the history, shorten it",
                    format_duration(self.l0_retention),
                    format_duration(self.retention)
                ),
            );
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        for (flag, value, least) in [
            ("--spool-limit", self.spool_limit, SPOOL_LIMIT_MIN),
            ("--wal-limit", self.wal_limit, WAL_LIMIT_MIN),
        ] {
            if value < least {
                let (given, least) = (format_size(value), format_size(least));
                return wrong(flag, format!("is {given}; the least is {least}"));
            }
        }
        if self.drain_timeout.is_zero() || self.drain_timeout > DRAIN_TIMEOUT_MAX {
            return wrong(
                "--drain-timeout",
                format!(
                    "is {}; choose more than 0s and at most {}",
                    format_duration(self.drain_timeout),
                    format_duration(DRAIN_TIMEOUT_MAX)
                ),
            );
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<Option<TlsFiles>, ConfigError> {
        match (&self.tls_cert, &self.tls_key, &self.client_ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(client_ca)) => Ok(Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: client_ca.clone(),
            })),
            (cert, key, _) => {
                let missing = match (cert, key) {
                    (None, _) => "--tls-cert",
                    (_, None) => "--tls-key",
                    _ => "--client-ca",
                };
                wrong(
                    missing,
                    "is missing; TLS needs --tls-cert, --tls-key and --client-ca",
                )
            }
        }
    }

    fn check_listen(
        &self,
        state_dir: &Path,
        tls: Option<&TlsFiles>,
    ) -> Result<Vec<Listen>, ConfigError> {
        if self.listen.len() > LISTEN_MAX {
            return wrong("--listen", format!("is given more than {LISTEN_MAX} times"));
        }
        if self.listen.is_empty() {
            let path = state_dir.join("agent.sock");
            if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return wrong(
                    "--listen",
                    format!("{} is too long for a unix socket; give one", path.display()),
                );
            }
            return Ok(vec![Listen::Unix(path)]);
        }
        let mut found = Vec::new();
        for text in &self.listen {
            let listen = text.parse().or_else(|reason| wrong("--listen", reason))?;
            if let Listen::Tcp(address) = &listen
                && !address.ip().is_loopback()
                && tls.is_none()
            {
                return wrong(
                    "--listen",
                    format!(
                        "{address} is not loopback and would be open to the network; give --tls-cert, --tls-key and --client-ca, or listen on 127.0.0.1 or unix:PATH"
                    ),
                );
            }
            if found.contains(&listen) {
                return wrong("--listen", format!("{listen} is given twice; name it once"));
            }
            found.push(listen);
        }
        Ok(found)
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address; write unix:PATH or IP:PORT, as in 127.0.0.1:7077")
    })
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// The kernel's host name, in lower case: the name a kubelet would take.
fn host_name() -> Result<String, ConfigError> {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => Ok(name.trim().to_ascii_lowercase()),
        Err(error) => wrong(
            "--node-name",
            format!("is not given, and the host name is unreadable ({error}); give it"),
        ),
    }
}

/// A node name is a part of replica paths and of identities (DNS-1123 subdomain).
fn check_node_name(name: &str) -> Result<(), ConfigError> {
    let label_fits = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= NODE_NAME_BYTES_MAX && name.split('.').all(label_fits) {
        return Ok(());
    }
    wrong(
        "--node-name",
        format!(
            "`{name}` is not a node name; use lower-case letters, digits, `-` and `.`, as in node-1"
        ),
    )
}

fn check_pods(text: &str) -> Result<PodsSource, ConfigError> {
    match text {
        "kube" => Ok(PodsSource::Kube),
        _ => match text.strip_prefix("dir:") {
            None => wrong(
                "--pods",
                format!("`{text}` is unknown; give kube or dir:PATH"),
            ),
            Some("") => wrong("--pods", "`dir:` names no directory; give dir:PATH"),
            Some(path) => match absolute(Path::new(path)) {
                Ok(path) => Ok(PodsSource::Dir(path)),
                Err(reason) => wrong("--pods", reason),
            },
        },
    }
}

/// In a cluster callers are asked who they are, unless the flag says otherwise.
fn usual_auth(pods: &PodsSource) -> Auth {
    match pods {
        PodsSource::Dir(_) => Auth::None,
        PodsSource::Kube => Auth::Kube,
    }
}

/// A spool inside the replica would be on the NAS, whose absence it is there to bridge.
fn check_apart(state_dir: &Path, replica_root: &Path) -> Result<(), ConfigError> {
    if state_dir.starts_with(replica_root) || replica_root.starts_with(state_dir) {
        return wrong(
            "--state-dir",
            format!(
                "{} and --replica-root {} lie in each other; put the state on the node's own disk",
                state_dir.display(),
                replica_root.display()
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
