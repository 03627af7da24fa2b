//! The door in front of each call, with a judge who knows tokens and permissions by heart.

use std::collections::BTreeSet;
use std::sync::Mutex;

use prost_types::FileDescriptorSet;

use super::*;
use crate::auth::{Deed, Judge, Unanswered, User};

/// Knows the token "good", and what its user may do: "verb resource namespace", or "silent".
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<BTreeSet<String>>>);

impl Fake {
    fn grant(&self, text: &str) {
        self.0.lock().unwrap().insert(text.to_owned());
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().contains(text)
    }
}

#[tonic::async_trait]
impl Judge for Fake {
    async fn user(&self, token: &str) -> Result<Option<User>, Unanswered> {
        if self.has("silent") {
            return Err(Unanswered("the API is away".to_owned()));
        }
        Ok((token == "good").then(|| User {
            name: "jane".to_owned(),
            ..User::default()
        }))
    }

    async fn may(
        &self,
        user: &User,
        deed: Deed,
        namespace: Option<&str>,
    ) -> Result<bool, Unanswered> {
        assert_eq!(user.name, "jane");
        if self.has("mute") {
            return Err(Unanswered("the API is away".to_owned()));
        }
        let place = namespace.unwrap_or("*");
        Ok(self.has(&format!("{} {} {place}", deed.verb(), deed.resource())))
    }
}

fn with_token<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    if token.is_empty() {
        return request;
    }
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Every call of the contract, with a message that names `media/…/x.db`, and what comes of it.
#[expect(clippy::too_many_lines, reason = "one entry a call")]
async fn each_call(channel: &Channel, token: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let (one, ids) = (|| Some(id("x.db")), || vec![id("x.db")]);
    let mut found = Vec::new();
    macro_rules! call {
        ($name:literal, $client:ident, $call:ident, $message:expr) => {
            let mut client = $client::new(channel.clone());
            let answer = client.$call(with_token($message, token)).await;
            found.push(($name, answer.map(drop)));
        };
    }
    call!("Agent.Info", AgentClient, info, v1::InfoRequest {});
    call!(
        "Replicas.List",
        ReplicasClient,
        list,
        v1::ListReplicasRequest::default()
    );
    call!(
        "Databases.List",
        DatabasesClient,
        list,
        v1::ListRequest::default()
    );
    let message = v1::HistoryRequest { database: one() };
    call!("Databases.History", DatabasesClient, history, message);
    call!(
        "Databases.Sync",
        DatabasesClient,
        sync,
        v1::SyncRequest { databases: ids() }
    );
    let message = v1::SnapshotRequest { databases: ids() };
    call!("Databases.Snapshot", DatabasesClient, snapshot, message);
    let message = v1::VerifyRequest {
        databases: ids(),
        ..Default::default()
    };
    call!("Databases.Verify", DatabasesClient, verify, message);
    let message = v1::RestoreRequest {
        database: one(),
        ..Default::default()
    };
    call!("Databases.Restore", DatabasesClient, restore, message);
    let message = v1::RestoreInPlaceRequest {
        database: one(),
        ..Default::default()
    };
    call!(
        "Databases.RestoreInPlace",
        DatabasesClient,
        restore_in_place,
        message
    );
    let message = v1::TakeoverRequest { database: one() };
    call!("Databases.Takeover", DatabasesClient, takeover, message);
    let message = v1::AdoptRequest {
        database: one(),
        ..Default::default()
    };
    call!("Databases.Adopt", DatabasesClient, adopt, message);
    // The watch and the list of replicas say what they may show on the stream.
    let mut client = DatabasesClient::new(channel.clone());
    let watch = client
        .watch(with_token(v1::WatchRequest::default(), token))
        .await;
    let first = match watch {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    found.push(("Databases.Watch", first));
    if let Some(slot) = found.iter_mut().find(|(name, _)| *name == "Replicas.List") {
        let mut client = ReplicasClient::new(channel.clone());
        let request = with_token(v1::ListReplicasRequest::default(), token);
        slot.1 = match client.list(request).await {
            Ok(stream) => all(stream.into_inner()).await.map(drop),
            Err(status) => Err(status),
        };
    }
    found
}

/// Who may do nothing gets nothing, and is told what is missing; the list of calls is complete.
#[tokio::test]
async fn every_call_names_the_permission_that_is_missing() {
    let served = Served::behind(Door::guarded(Fake::default())).await;
    let calls = each_call(&served.tcp, "good").await;
    for (name, result) in &calls {
        let status = result.as_ref().unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status}");
        assert!(
            status.message().starts_with("jane may not "),
            "{name}: {status}"
        );
        assert!(
            status.message().contains("apiGroups: [sqlrep.io]"),
            "{name}: {status}"
        );
    }
    let takeover = calls
        .iter()
        .find(|(name, _)| *name == "Databases.Takeover")
        .unwrap();
    let status = takeover.1.as_ref().unwrap_err();
    assert_eq!(
        status.message(),
        "jane may not update replicas/takeover.sqlrep.io in namespace media; it takes a role with \
         apiGroups: [sqlrep.io], resources: [replicas/takeover], verbs: [update]"
    );
    let set: FileDescriptorSet = prost::Message::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let contract: BTreeSet<String> = services
        .flat_map(|service| service.method.iter().map(move |method| (service, method)))
        .map(|(service, method)| format!("{}.{}", service.name(), method.name()))
        .collect();
    let tried: BTreeSet<String> = calls.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(tried, contract);
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_one_nothing_is_said() {
    let served = Served::behind(Door::guarded(Fake::default())).await;
    for token in ["", "stolen"] {
        for (name, result) in each_call(&served.tcp, token).await {
            let status = result.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{name}: {status}");
            assert!(
                status.message().contains("audience sqlrep"),
                "{name}: {status}"
            );
        }
    }
}

/// The permission that the contract's README asks for a call: "verb resource".
fn permission(call: &str) -> String {
    let readme = include_str!("../../../../../proto/README.md");
    let named = format!("`{call}`");
    let row = readme
        .lines()
        .find(|line| line.starts_with("| ") && line.contains(&named))
        .unwrap_or_else(|| panic!("{call} has no row"));
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    format!(
        "{} {}",
        cells[2].trim_matches('`'),
        cells[3].trim_matches('`')
    )
}

/// Whoever may do one thing may do that, and nothing else.
#[tokio::test]
async fn each_call_asks_for_its_own_permission() {
    let nobody = Served::behind(Door::guarded(Fake::default())).await;
    let calls = each_call(&nobody.tcp, "good").await;
    let wanted: BTreeSet<String> = calls.iter().map(|(name, _)| permission(name)).collect();
    assert_eq!(wanted.len(), 10, "{wanted:?}");
    for granted in &wanted {
        let judge = Fake::default();
        for place in ["media", "*"] {
            judge.grant(&format!("{granted} {place}"));
        }
        let served = Served::behind(Door::guarded(judge)).await;
        for (name, result) in each_call(&served.tcp, "good").await {
            let refused = result.is_err_and(|status| status.code() == Code::PermissionDenied);
            let mine = permission(name) == *granted;
            assert_eq!(refused, !mine, "{name} with the permission to {granted}");
        }
    }
}

/// Whoever opens the socket is root on the node; probes and tools bring no token.
#[tokio::test]
async fn the_unix_socket_health_and_reflection_need_no_token() {
    let served = Served::behind(Door::guarded(Fake::default())).await;
    let info = AgentClient::new(served.channel.clone())
        .info(v1::InfoRequest {})
        .await;
    assert_eq!(info.unwrap().into_inner().node, "node-1");
    let mut health = tonic_health::pb::health_client::HealthClient::new(served.tcp.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request).await.unwrap();
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = ServerReflectionClient::new(served.tcp.clone())
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    assert_eq!(all(answers.into_inner()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_judge_that_does_not_answer_allows_nothing() {
    let judge = Fake::default();
    judge.grant("mute");
    let served = Served::behind(Door::guarded(judge)).await;
    for (name, result) in each_call(&served.tcp, "good").await {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{name}: {status}");
        assert!(
            status.message().contains("the API is away"),
            "{name}: {status}"
        );
    }
    let judge = Fake::default();
    judge.grant("silent");
    let served = Served::behind(Door::guarded(judge)).await;
    for (name, result) in each_call(&served.tcp, "good").await {
        assert_eq!(result.unwrap_err().code(), Code::Unavailable, "{name}");
    }
}

#[tokio::test]
async fn rows_of_namespaces_that_the_caller_may_not_see_are_left_out() {
    let judge = Fake::default();
    judge.grant("list replicas media");
    let served = Served::behind(Door::guarded(judge.clone())).await;
    let mut other = served.volume();
    (other.pod.namespace, other.pod.uid) = ("home".to_owned(), "uid-2".to_owned());
    for volume in [served.volume(), other] {
        let path = std::path::Path::new("x.db");
        served
            .fleet
            .unsupported(&volume, path, "r".to_owned(), "h".to_owned());
    }
    let list = async |namespace: &str| {
        let message = v1::ListRequest {
            namespace: namespace.to_owned(),
        };
        let answer = DatabasesClient::new(served.tcp.clone())
            .list(with_token(message, "good"))
            .await?;
        let rows = all(answer.into_inner()).await?;
        let names = rows.into_iter().map(|row| row.id.unwrap().namespace);
        Ok::<Vec<String>, Status>(names.collect())
    };
    assert_eq!(list("").await.unwrap(), ["media"]);
    assert_eq!(list("media").await.unwrap(), ["media"]);
    assert_eq!(
        list("home").await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let request = with_token(v1::WatchRequest::default(), "good");
    let watch = DatabasesClient::new(served.tcp.clone())
        .watch(request)
        .await;
    let mut watch = watch.unwrap().into_inner();
    let mut seen = Vec::new();
    loop {
        match watch.message().await.unwrap().unwrap().event.unwrap() {
            v1::watch_response::Event::Changed(row) => seen.push(row.id.unwrap().namespace),
            v1::watch_response::Event::CaughtUp(_) => break,
            v1::watch_response::Event::Gone(id) => panic!("{id:?}"),
        }
    }
    assert_eq!(seen, ["media"]);
}

#[tokio::test]
async fn a_call_on_several_is_refused_whole() {
    let judge = Fake::default();
    judge.grant("create replicas/sync media");
    let served = Served::behind(Door::guarded(judge)).await;
    let sync = async |databases: Vec<v1::DatabaseId>| {
        let request = with_token(v1::SyncRequest { databases }, "good");
        let answer = DatabasesClient::new(served.tcp.clone())
            .sync(request)
            .await?;
        all(answer.into_inner()).await.map(|steps| steps.len())
    };
    assert_eq!(sync(vec![id("x.db"), id("y.db")]).await.unwrap(), 2);
    let elsewhere = v1::DatabaseId {
        namespace: "home".to_owned(),
        ..id("x.db")
    };
    let refused = sync(vec![id("x.db"), elsewhere]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("namespace home"), "{refused}");
}
