//! The watch: all rows once, then what changes, folded into the newest.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlrep_proto::v1;
use sqlrep_proto::v1::watch_response::Event;
use tokio::time::sleep;

use super::{rows, visible};
use crate::auth::Caller;
use crate::rpc::Node;
use crate::rpc::stream::{Broken, Sink};

/// Changes within this time are one.
const FOLD: Duration = Duration::from_millis(100);

/// How often a row is sent whose lag grows while nothing else changes.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// A row's identity: two pods of one app may be on the node at once.
type Key = (String, String, String, String, String);

/// Sends rows until the caller goes away.
pub(super) async fn run(
    node: Node,
    caller: Caller,
    namespace: String,
    sink: Sink<v1::WatchResponse>,
) -> Result<(), Broken> {
    let mut changes = node.fleet.changes();
    let mut sent = BTreeMap::new();
    let mut caught_up = false;
    loop {
        changes.mark_unchanged();
        // Asked again at each turn: a permission may be taken away meanwhile.
        let now: BTreeMap<Key, v1::Database> =
            visible(&caller, &namespace, rows(&node, &namespace))
                .await?
                .into_iter()
                .map(|row| (key(&row), row))
                .collect();
        for event in difference(&sent, &now) {
            sink.send(v1::WatchResponse { event: Some(event) }).await?;
        }
        if !caught_up {
            caught_up = true;
            let event = Some(Event::CaughtUp(v1::CaughtUp {}));
            sink.send(v1::WatchResponse { event }).await?;
        }
        let behind = now
            .values()
            .any(|row| row.lag.is_some_and(|lag| lag.seconds > 0));
        sent = now;
        sleep(FOLD).await;
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = sleep(LAG_EVERY), if behind => {}
        }
    }
}

fn key(row: &v1::Database) -> Key {
    let id = row.id.clone().unwrap_or_default();
    (
        id.namespace,
        id.app,
        id.volume,
        id.path,
        row.pod_uid.clone(),
    )
}

/// What a caller who knows `before` must be told to know `now`.
fn difference(
    before: &BTreeMap<Key, v1::Database>,
    now: &BTreeMap<Key, v1::Database>,
) -> Vec<Event> {
    let gone = before.iter().filter(|(key, row)| {
        // The caller knows rows by identity: another pod's row keeps it.
        !now.contains_key(*key) && !now.values().any(|other| other.id == row.id)
    });
    let gone = gone.filter_map(|(_, row)| row.id.clone()).map(Event::Gone);
    let changed = now
        .iter()
        .filter(|(key, row)| before.get(*key) != Some(*row));
    gone.chain(changed.map(|(_, row)| Event::Changed(row.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, &str, u64)]) -> BTreeMap<Key, v1::Database> {
        let row = |(path, pod, txid): &(&str, &str, u64)| v1::Database {
            id: Some(v1::DatabaseId {
                path: (*path).to_owned(),
                ..Default::default()
            }),
            pod_uid: (*pod).to_owned(),
            txid: Some(*txid),
            ..Default::default()
        };
        rows.iter().map(row).map(|row| (key(&row), row)).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = rows(&[("a", "p", 1), ("b", "p", 1), ("c", "p", 1)]);
        let now = rows(&[("a", "p", 1), ("b", "p", 2), ("d", "p", 1)]);
        let told: Vec<String> = difference(&before, &now)
            .into_iter()
            .map(|event| match event {
                Event::Changed(row) => format!("changed {}", row.id.unwrap().path),
                Event::Gone(id) => format!("gone {}", id.path),
                Event::CaughtUp(_) => "caught up".to_owned(),
            })
            .collect();
        assert_eq!(told, ["gone c", "changed b", "changed d"]);
    }

    #[test]
    fn a_database_that_moved_to_another_pod_is_not_gone() {
        let before = rows(&[("a", "old", 1)]);
        let now = rows(&[("a", "new", 1)]);
        let told = difference(&before, &now);
        assert!(matches!(told[..], [Event::Changed(_)]), "{told:?}");
    }
}
