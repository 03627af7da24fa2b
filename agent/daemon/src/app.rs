//! The wiring: config → fleet → sockets → discover → adopt → rpc and metrics → wait → drain.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlrep_discover::{Claims, Discover, PodSource};
use sqlrep_pipeline::{Fleet, FleetConfig, Identity, NoLookup, NodeMemory, Settings};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::adopt::{Adoption, Context, Notes, Signals};
use crate::auth::{ApiJudge, Door};
use crate::cluster::Cluster;
use crate::config::{Auth, Config, Listen, PodsSource, TlsFiles};
use crate::events::{self, Notices};
use crate::gate::status::BOOT_ID_FILE;
use crate::health::Pulse;
use crate::listen::{self, UnixSocket};
use crate::root::RootWatch;
use crate::rpc::{Node, Services};
use crate::shutdown::{self, Stop, Until};
use crate::telemetry::complain;
use crate::{http, rpc, standby};

/// Everything slow has threads of its own; what is left for tokio is little.
const WORKERS: usize = 2;

/// Descriptors that are enough for the databases of any node: some ten for each.
const DESCRIPTORS: u64 = 1 << 16;

/// Takes as many descriptors as it may have. What a process begins with is often 1,024, for the sake of
/// programs that count in bits, and a hundred databases need more.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most) {
        let wanted = Rlimit {
            current: Some(most),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(err = %error, "the limit of open files stays low");
        }
    }
}

/// Runs `sqlrep-agent run` until it is told to stop.
pub(crate) fn run(config: Config, until: Until) -> ExitCode {
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("agent")
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(serve(config, until)),
        Err(error) => Err(anyhow!(error).context("cannot start the runtime")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, until: Until) -> anyhow::Result<()> {
    let mut stop = Stop::new(until).context("cannot listen for signals")?;
    let mut app = tokio::select! {
        signal = stop.next() => {
            tracing::info!(signal, "told to stop before it began");
            return Ok(());
        }
        app = App::start(config) => app?,
    };
    let ended = tokio::select! {
        signal = stop.next() => {
            tracing::info!(signal, "told to stop: draining");
            Ok(())
        }
        error = app.broken() => Err(error),
    };
    shutdown::drain(app, &mut stop).await;
    ended
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) fleet: Fleet,
    /// Ends intake and serving.
    pub(crate) stop: CancellationToken,
    /// Servers and watches.
    pub(crate) tasks: JoinSet<anyhow::Result<()>>,
    adoption: JoinHandle<bool>,
    /// Their files go away with them.
    pub(crate) sockets: Vec<UnixSocket>,
}

impl App {
    /// Starts everything, in the order of the flow.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let boot_id = boot_id()?;
        let tls = config.tls.as_ref().map(read_tls).transpose()?;
        let (cluster, source) = pod_source(&config).await?;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (pulse, notes, claims) = (Pulse::new(), Notes::default(), Claims::new());
        let pages = http::Pages {
            fleet: Arc::default(),
            pulse: pulse.clone(),
        };
        serve_pages(&config, &pages, &mut tasks, &stop).await?;
        let fleet = begin(&config, cluster.as_ref(), &pulse).await?;
        // Set once, here.
        drop(pages.fleet.set(fleet.clone()));
        let mut sockets = Bound::bind(&config).await?;
        let door = door(&config, cluster.as_ref()).await?;

        let root = RootWatch::new(fleet.clone(), cluster.clone(), pulse.clone());
        let (notices, said) = Notices::new();
        let (discover, events) = Discover::start(
            discover_config(&config, source),
            claims.clone(),
            stop.clone(),
        )?;
        let discover = Arc::new(discover);
        let (watch, rescan) = (Arc::clone(&discover), discover);
        let context = Context {
            kubelet_root: config.kubelet_root.clone(),
            defaults: settings(&config),
            boot_id,
            signals: Signals::start().context("cannot start a thread")?,
            watch: Box::new(move |pod| watch.watch_volumes(pod)),
            rescan: Box::new(move || rescan.rescan()),
            notes: notes.clone(),
            notices: notices.clone(),
            pulse: pulse.clone(),
        };
        let adoption = Adoption::new(fleet.clone(), Arc::new(context), claims);
        let adoption = tokio::spawn(adoption.run(events, stop.clone()));

        tasks.spawn(root.run(stop.clone()));
        let (board, seen) = (fleet.clone(), notes.clone());
        tasks.spawn(events::watch_board(board, seen, notices, stop.clone()));
        let server = cluster.map(|cluster| events::Server::new(cluster, &config.node_name));
        tasks.spawn(events::publish(said, server, stop.clone()));
        let node = Node::new(fleet.clone(), Arc::clone(&config), notes, stop.clone());
        sockets.serve(&mut tasks, &Services::new(node, door), tls.as_ref(), &stop);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), node = config.node_name,
            replica_root = %config.replica_root.display(), "sqlrep-agent runs"
        );
        Ok(Self {
            fleet,
            stop,
            tasks,
            adoption,
            sockets: sockets.unix,
        })
    }

    /// Waits until a part of the agent ends that should not.
    pub(crate) async fn broken(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = &mut self.adoption => match ended {
                Ok(_) => anyhow!("discovery ended by itself; this is a bug"),
                Err(panic) => anyhow!(panic).context("adoption panicked; this is a bug"),
            },
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Ok(())) => anyhow!("a server ended by itself; this is a bug"),
                Ok(Err(error)) => error.context("a server failed"),
                Err(panic) => anyhow!(panic).context("a server panicked; this is a bug"),
            },
        }
    }
}

/// Takes the node over, in a cluster as soon as the agent before this one has let go of it.
async fn begin(config: &Config, cluster: Option<&Cluster>, pulse: &Pulse) -> anyhow::Result<Fleet> {
    let fleet = fleet_config(config, cluster);
    let started = match cluster {
        Some(_) => standby::start_fleet(fleet, pulse).await,
        // A second agent on a machine is a mistake, and is told so.
        None => Fleet::start(fleet),
    };
    started.with_context(|| format!("--state-dir {}: cannot be used", config.state_dir.display()))
}

/// Answers probes and scrapes, from the first moment on.
async fn serve_pages(
    config: &Config,
    pages: &http::Pages,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(address) = config.metrics else {
        return Ok(());
    };
    let listener = listen::tcp("--metrics", address).await?;
    let (pages, stop) = (pages.clone(), stop.clone());
    tasks.spawn(async move {
        http::serve(listener, pages, stop).await;
        Ok(())
    });
    Ok(())
}

/// The sockets of an agent, before they are served.
#[derive(Debug)]
struct Bound {
    unix: Vec<UnixSocket>,
    tcp: Vec<TcpListener>,
}

impl Bound {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mut bound = Self {
            unix: Vec::new(),
            tcp: Vec::new(),
        };
        for address in &config.listen {
            match address {
                Listen::Unix(path) => bound.unix.push(listen::unix("--listen", path)?),
                Listen::Tcp(address) => bound.tcp.push(listen::tcp("--listen", *address).await?),
            }
        }
        Ok(bound)
    }

    fn serve(
        &mut self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        services: &Services,
        tls: Option<&Tls>,
        stop: &CancellationToken,
    ) {
        for listener in self.unix.iter_mut().filter_map(UnixSocket::take) {
            let (services, stop) = (services.clone(), stop.clone());
            tasks.spawn(async move { Ok(services.serve_unix(listener, stop).await?) });
        }
        for listener in self.tcp.drain(..) {
            let loopback = listener
                .local_addr()
                .is_ok_and(|address| address.ip().is_loopback());
            let tls = tls.filter(|_| !loopback).map(Tls::config);
            let (services, stop) = (services.clone(), stop.clone());
            tasks.spawn(async move { Ok(services.serve_tcp(listener, tls, stop).await?) });
        }
    }
}

/// What the TLS files hold.
struct Tls {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Tls {
    fn config(&self) -> tonic::transport::ServerTlsConfig {
        rpc::tls(&self.cert, &self.key, &self.client_ca)
    }
}

fn read_tls(files: &TlsFiles) -> anyhow::Result<Tls> {
    let read = |flag: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("{flag} {}: cannot be read", path.display()))
    };
    Ok(Tls {
        cert: read("--tls-cert", &files.cert)?,
        key: read("--tls-key", &files.key)?,
        client_ca: read("--client-ca", &files.client_ca)?,
    })
}

/// Where pods come from, and the cluster where there is one.
async fn pod_source(config: &Config) -> anyhow::Result<(Option<Cluster>, PodSource)> {
    match &config.pods {
        PodsSource::Dir(path) => Ok((None, PodSource::Dir(path.clone()))),
        PodsSource::Kube => {
            let cluster = Cluster::connect(config).await?;
            let source = PodSource::Kube(cluster.api_server());
            Ok((Some(cluster), source))
        }
    }
}

/// Who is asked what a caller may do.
async fn door(config: &Config, cluster: Option<&Cluster>) -> anyhow::Result<Door> {
    match (config.auth, cluster) {
        (Auth::None, _) => Ok(Door::open()),
        (Auth::Kube, Some(cluster)) => Ok(Door::guarded(cluster.judge())),
        (Auth::Kube, None) => ApiJudge::of_process().await.map(Door::guarded).context(
            "--auth kube: cannot find the cluster; run in a pod with a service account, or set \
             KUBECONFIG",
        ),
    }
}

fn boot_id() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(BOOT_ID_FILE)
        .with_context(|| format!("cannot read {BOOT_ID_FILE}"))?;
    Ok(text.trim().to_owned())
}

fn settings(config: &Config) -> Settings {
    Settings {
        sync_interval: config.sync_interval,
        snapshot_interval: config.snapshot_interval,
        retention: config.retention,
    }
}

fn fleet_config(config: &Config, cluster: Option<&Cluster>) -> FleetConfig {
    FleetConfig {
        node: config.node_name.clone(),
        replica_root: config.replica_root.clone(),
        state_dir: config.state_dir.clone(),
        defaults: settings(config),
        spool_bytes_max: config.spool_bytes_max,
        wal_bytes_max: config.wal_bytes_max,
        l0_retention: config.l0_retention,
        levels: config.levels.clone(),
        branch_retention: config.branch_retention,
        verify_interval: config.verify_interval,
        drain_timeout: config.drain_timeout,
        replica_owner: config.replica_owner.map(|(uid, gid)| Identity { uid, gid }),
        cluster_uid: cluster.map(|cluster| cluster.uid().to_owned()),
        lookup: match cluster {
            Some(cluster) => Arc::new(cluster.clone()),
            None => Arc::new(NoLookup),
        },
        targets: match cluster.filter(|cluster| cluster.remembers_roots()) {
            Some(cluster) => Arc::new(cluster.clone()),
            None => Arc::new(NodeMemory),
        },
    }
}

fn discover_config(config: &Config, source: PodSource) -> sqlrep_discover::Config {
    sqlrep_discover::Config::new(
        source,
        config.kubelet_root.clone(),
        config.node_name.clone(),
    )
}

#[cfg(test)]
mod tests;
