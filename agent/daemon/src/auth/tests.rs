//! What is believed for how long, and what is asked again.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Counts what it is asked; answers what it is set to.
#[derive(Debug, Default)]
struct Counting {
    users: Arc<AtomicUsize>,
    verdicts: Arc<AtomicUsize>,
    allow: bool,
    hang: bool,
}

#[tonic::async_trait]
impl Judge for Counting {
    async fn user(&self, token: &str) -> Result<Option<User>, Unanswered> {
        self.users.fetch_add(1, Ordering::Relaxed);
        if self.hang {
            std::future::pending::<()>().await;
        }
        Ok((token != "bad").then(|| User {
            name: token.to_owned(),
            ..User::default()
        }))
    }

    async fn may(&self, _: &User, _: Deed, _: Option<&str>) -> Result<bool, Unanswered> {
        self.verdicts.fetch_add(1, Ordering::Relaxed);
        Ok(self.allow)
    }
}

fn metadata(value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", value.parse().unwrap());
    metadata
}

async fn caller(door: &Door, value: &str) -> Result<Caller, Status> {
    door.caller(&metadata(value), &Extensions::new()).await
}

#[tokio::test(start_paused = true)]
async fn a_permission_is_asked_about_again_after_ten_seconds_a_refusal_after_two() {
    for (allow, believed) in [(true, 10), (false, 2)] {
        let judge = Counting {
            allow,
            ..Counting::default()
        };
        let (users, verdicts) = (Arc::clone(&judge.users), Arc::clone(&judge.verdicts));
        let door = Door::guarded(judge);
        let ask = async || {
            let caller = caller(&door, "Bearer jane").await.unwrap();
            caller.require(Deed::Sync, Some("media")).await.is_ok()
        };
        assert_eq!(ask().await, allow);
        tokio::time::advance(Duration::from_millis(believed * 1000 - 1)).await;
        assert_eq!(ask().await, allow);
        assert_eq!(verdicts.load(Ordering::Relaxed), 1, "{allow}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(ask().await, allow);
        assert_eq!(verdicts.load(Ordering::Relaxed), 2, "{allow}");
        assert_eq!(users.load(Ordering::Relaxed), if allow { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn each_namespace_and_deed_is_a_question_of_its_own() {
    let judge = Counting {
        allow: true,
        ..Counting::default()
    };
    let verdicts = Arc::clone(&judge.verdicts);
    let door = Door::guarded(judge);
    for name in ["Bearer jane", "bearer john"] {
        let caller = caller(&door, name).await.unwrap();
        for namespace in [None, Some("media"), Some("home")] {
            caller.require(Deed::Sync, namespace).await.unwrap();
            caller.require(Deed::Restore, namespace).await.unwrap();
        }
    }
    assert_eq!(verdicts.load(Ordering::Relaxed), 12);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_not_asked_about() {
    let judge = Counting::default();
    let users = Arc::clone(&judge.users);
    let door = Door::guarded(judge);
    let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
    for value in ["Basic amFuZQ==", "Bearer", "Bearer ", "jane", &long] {
        let refused = caller(&door, value).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{value:.20}");
    }
    assert_eq!(users.load(Ordering::Relaxed), 0);
    assert!(caller(&door, "Bearer bad").await.is_err());
    assert_eq!(users.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_of_a_megabyte_is_not_asked_about_nor_remembered() {
    let judge = Counting {
        allow: true,
        ..Counting::default()
    };
    let verdicts = Arc::clone(&judge.verdicts);
    let caller = caller(&Door::guarded(judge), "Bearer jane").await.unwrap();
    let refused = caller.require(Deed::Sync, Some(&"x".repeat(1 << 20))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().len() < 100, "{refused}");
    assert_eq!(verdicts.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_hangs_is_not_waited_for() {
    let door = Door::guarded(Counting {
        hang: true,
        ..Counting::default()
    });
    let refused = caller(&door, "Bearer jane").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn without_a_cluster_nobody_is_asked() {
    let door = Door::open();
    let caller = door.caller(&MetadataMap::new(), &Extensions::new()).await;
    let caller = caller.unwrap();
    caller.require(Deed::Adopt, None).await.unwrap();
    let sight = caller.sight("", ["media".to_owned()]).await;
    assert_eq!(sight.unwrap(), Sight::All);
}
