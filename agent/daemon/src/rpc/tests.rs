//! The services over a real unix socket, with a real fleet on temporary directories.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use sqlrep_pipeline::{
    FleetConfig, JournalPolicy, Medium, PodIdentity, RestorePolicy, Settings, Volume,
};
use sqlrep_proto::v1::agent_client::AgentClient;
use sqlrep_proto::v1::databases_client::DatabasesClient;
use sqlrep_proto::v1::replicas_client::ReplicasClient;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::config::{Auth, Listen, LogFormat, PodsSource};
use crate::listen;

mod guard;

struct Served {
    dir: TempDir,
    fleet: Fleet,
    /// Through the unix socket.
    channel: Channel,
    /// Through a loopback port.
    tcp: Channel,
    stop: CancellationToken,
    task: JoinHandle<io::Result<()>>,
    _socket: listen::UnixSocket,
}

fn settings() -> Settings {
    Settings {
        sync_interval: Duration::from_secs(1),
        snapshot_interval: Duration::from_hours(1),
        retention: Duration::from_hours(2),
    }
}

fn config(dir: &TempDir) -> Config {
    Config {
        node_name: "node-1".to_owned(),
        pods: PodsSource::Dir(dir.path().join("pods")),
        kubelet_root: dir.path().join("kubelet"),
        replica_root: dir.path().join("nas"),
        replica_owner: None,
        state_dir: dir.path().join("state"),
        sync_interval: Duration::from_secs(1),
        l0_retention: Duration::from_mins(5),
        branch_retention: Duration::from_hours(720),
        levels: [
            Duration::from_secs(30),
            Duration::from_mins(5),
            Duration::from_hours(1),
        ]
        .into(),
        verify_interval: Some(Duration::from_hours(24)),
        snapshot_interval: Duration::from_hours(1),
        retention: Duration::from_hours(2),
        spool_bytes_max: 1 << 30,
        wal_bytes_max: 1 << 28,
        drain_timeout: Duration::from_secs(1),
        listen: vec![Listen::Unix(dir.path().join("agent.sock"))],
        auth: Auth::None,
        tls: None,
        metrics: None,
        log_format: LogFormat::Text,
    }
}

impl Served {
    async fn new() -> Self {
        Self::behind(Door::open()).await
    }

    async fn behind(door: Door) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nas")).unwrap();
        let config = config(&dir);
        let fleet = Fleet::start(FleetConfig {
            node: config.node_name.clone(),
            replica_root: config.replica_root.clone(),
            state_dir: config.state_dir.clone(),
            defaults: settings(),
            spool_bytes_max: config.spool_bytes_max,
            wal_bytes_max: config.wal_bytes_max,
            l0_retention: config.l0_retention,
            branch_retention: config.branch_retention,
            levels: config.levels.clone(),
            verify_interval: config.verify_interval,
            drain_timeout: config.drain_timeout,
            replica_owner: None,
            cluster_uid: None,
            lookup: Arc::new(sqlrep_pipeline::NoLookup),
            targets: Arc::new(sqlrep_pipeline::NodeMemory),
        })
        .unwrap();
        fleet.ready();
        fleet.check_root().await.unwrap();
        let path = dir.path().join("agent.sock");
        let mut socket = listen::unix("--listen", &path).unwrap();
        let stop = CancellationToken::new();
        let node = Node::new(
            fleet.clone(),
            Arc::new(config),
            Notes::default(),
            stop.clone(),
        );
        let services = Services::new(node, door);
        let (over_tcp, ended) = (services.clone(), stop.clone());
        let listener = listen::tcp("--listen", "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let tcp = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { over_tcp.serve_tcp(listener, None, ended).await });
        let tcp = Endpoint::from_shared(tcp).unwrap().connect().await.unwrap();
        let (listener, ended) = (socket.take().unwrap(), stop.clone());
        let task = tokio::spawn(async move { services.serve_unix(listener, ended).await });
        let channel = connect(path).await;
        Self {
            dir,
            fleet,
            channel,
            tcp,
            stop,
            task,
            _socket: socket,
        }
    }

    fn databases(&self) -> DatabasesClient<Channel> {
        DatabasesClient::new(self.channel.clone())
    }

    fn volume(&self) -> Volume {
        Volume {
            pod: PodIdentity {
                namespace: "media".to_owned(),
                app: "surmai".to_owned(),
                name: "surmai-1".to_owned(),
                uid: "uid-1".to_owned(),
                namespace_uid: None,
            },
            name: "sqlite".to_owned(),
            dir: self.dir.path().join("volume"),
            medium: Medium::Disk,
            settings: settings(),
            bytes_max: None,
            restore: RestorePolicy::Auto,
            journal: JournalPolicy::Keep,
            user: None,
            target: None,
        }
    }
}

async fn connect(path: PathBuf) -> Channel {
    Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }))
        .await
        .unwrap()
}

fn id(path: &str) -> v1::DatabaseId {
    v1::DatabaseId {
        namespace: "media".to_owned(),
        app: "surmai".to_owned(),
        volume: "sqlite".to_owned(),
        path: path.to_owned(),
    }
}

async fn all<T>(mut stream: tonic::Streaming<T>) -> Result<Vec<T>, Status> {
    let mut found = Vec::new();
    while let Some(message) = stream.message().await? {
        found.push(message);
    }
    Ok(found)
}

#[tokio::test]
async fn the_agent_says_who_it_is() {
    let served = Served::new().await;
    let mut client = AgentClient::new(served.channel.clone());
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node, "node-1");
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.flags["sync-interval"], "1s");
    assert!(!info.replica_root_id.is_empty());
    assert!(
        info.health.iter().all(|check| check.ok),
        "{:?}",
        info.health
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_followed_is_listed_with_reason_and_hint() {
    let served = Served::new().await;
    let (reason, hint) = ("journal_mode=delete".to_owned(), "convert it".to_owned());
    let path = std::path::Path::new("x.db");
    served
        .fleet
        .unsupported(&served.volume(), path, reason.clone(), hint.clone());
    let list = |namespace: &str| v1::ListRequest {
        namespace: namespace.to_owned(),
    };
    let rows = served
        .databases()
        .list(list("media"))
        .await
        .unwrap()
        .into_inner();
    let rows = all(rows).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].id, Some(id("x.db")));
    assert_eq!(rows[0].state(), v1::State::Unsupported);
    assert_eq!((&rows[0].reason, &rows[0].hint), (&reason, &hint));
    assert_eq!(rows[0].node, "node-1");
    let none = served
        .databases()
        .list(list("other"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all(none).await.unwrap(), []);
}

#[tokio::test]
async fn errors_carry_the_code_of_their_exit_code() {
    let served = Served::new().await;
    let mut client = served.databases();
    let history = v1::HistoryRequest {
        database: Some(id("none.db")),
    };
    let history = client.history(history).await.unwrap().into_inner();
    assert_eq!(all(history).await.unwrap_err().code(), Code::NotFound);
    let restore = v1::RestoreRequest {
        database: Some(id("none.db")),
        ..Default::default()
    };
    let restore = client.restore(restore).await.unwrap().into_inner();
    assert_eq!(all(restore).await.unwrap_err().code(), Code::NotFound);
    let nameless = v1::HistoryRequest { database: None };
    assert_eq!(
        client.history(nameless).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let nothing = v1::SyncRequest {
        databases: Vec::new(),
    };
    assert_eq!(
        client.sync(nothing).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let nobody = v1::TakeoverRequest {
        database: Some(id("x.db")),
    };
    assert_eq!(
        client.takeover(nobody).await.unwrap_err().code(),
        Code::NotFound
    );
    let elsewhere = v1::AdoptRequest {
        database: Some(id("x.db")),
        litestream_replica: "/elsewhere".to_owned(),
    };
    assert_eq!(
        client.adopt(elsewhere).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test]
async fn one_database_that_fails_does_not_fail_the_others_of_a_call() {
    let served = Served::new().await;
    let names: Vec<_> = (0..100).map(|number| id(&format!("{number}.db"))).collect();
    let sync = v1::SyncRequest {
        databases: names.clone(),
    };
    let steps = all(served.databases().sync(sync).await.unwrap().into_inner())
        .await
        .unwrap();
    assert_eq!(steps.len(), names.len());
    for step in steps {
        assert!(names.contains(&step.database.unwrap()));
        match step.step.unwrap() {
            v1::sync_response::Step::Failed(failure) => {
                assert_eq!(failure.code, i32::from(Code::NotFound));
                assert!(
                    failure.message.contains("no live database"),
                    "{}",
                    failure.message
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_watch_tells_all_then_changes_and_ends_at_the_callers_deadline() {
    let served = Served::new().await;
    let mut request = Request::new(v1::WatchRequest::default());
    request
        .metadata_mut()
        .insert("grpc-timeout", "1500m".parse().unwrap());
    let mut watch = served
        .databases()
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!(first, v1::watch_response::Event::CaughtUp(v1::CaughtUp {}));
    let path = std::path::Path::new("x.db");
    served
        .fleet
        .unsupported(&served.volume(), path, "r".to_owned(), "h".to_owned());
    match watch.message().await.unwrap().unwrap().event.unwrap() {
        v1::watch_response::Event::Changed(row) => assert_eq!(row.id, Some(id("x.db"))),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        watch.message().await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
}

#[tokio::test]
async fn open_streams_end_when_the_agent_stops() {
    let served = Served::new().await;
    let watch = served
        .databases()
        .watch(v1::WatchRequest::default())
        .await
        .unwrap();
    served.stop.cancel();
    assert_eq!(
        all(watch.into_inner()).await.unwrap_err().code(),
        Code::Unavailable
    );
    tokio::time::timeout(Duration::from_secs(10), served.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let served = Served::new().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(served.channel.clone());
    for service in [
        "",
        "sqlrep.v1.Agent",
        "sqlrep.v1.Databases",
        "sqlrep.v1.Replicas",
    ] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    let replicas = ReplicasClient::new(served.channel.clone())
        .list(v1::ListReplicasRequest::default())
        .await
        .unwrap();
    assert_eq!(all(replicas.into_inner()).await.unwrap(), []);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = ServerReflectionClient::new(served.channel.clone())
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    match all(answers.into_inner())
        .await
        .unwrap()
        .remove(0)
        .message_response
        .unwrap()
    {
        MessageResponse::ListServicesResponse(list) => {
            let names: Vec<_> = list
                .service
                .into_iter()
                .map(|service| service.name)
                .collect();
            assert!(
                names.contains(&"sqlrep.v1.Databases".to_owned()),
                "{names:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}
