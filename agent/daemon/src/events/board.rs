//! What the list of databases has to say about pods: looked at when it changes, told once for each
//! change.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use sqlrep_pipeline::{DatabaseStatus, Fleet, Key, State};
use tokio_util::sync::CancellationToken;

use super::{Notice, Notices, PodName, Reason};
use crate::adopt::Notes;

/// The rest between two looks: what happens at once is told at once.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Lag grows without a change of the list.
const LOOK_AT_LAG: Duration = Duration::from_secs(15);
/// Commits that wait longer than this are worth an event.
const LAG_TOLD: Duration = Duration::from_mins(1);
/// Once told, the lag must be this small before it is told again.
const LAG_OVER: Duration = Duration::from_secs(10);

/// Tells what changes, until told to stop.
pub(crate) async fn watch_board(
    fleet: Fleet,
    notes: Notes,
    notices: Notices,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut turns = fleet.turns();
    let mut seen = Seen::default();
    let watch = async {
        loop {
            // The list lives as long as the fleet that we hold: it took a turn, or the time is over.
            let turned = tokio::time::timeout(LOOK_AT_LAG, turns.changed()).await;
            if turned.is_err() && !fleet.is_behind() && !seen.lags {
                continue; // a thousand rows are not looked at for nothing
            }
            let is_ungated = |uid: &str| notes.is_ungated(uid);
            let news = fleet.look(|rows| seen.look(rows, is_ungated, Instant::now()));
            for notice in news {
                notices.say(notice.pod, notice.reason, notice.note);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watch => {}
    }
    Ok(())
}

/// What was last seen of each database.
#[derive(Debug, Default)]
struct Seen {
    /// In the order of their keys.
    rows: Vec<(Key, Row)>,
    /// Whether one of them lags.
    lags: bool,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    state: State,
    lags: bool,
    linked: bool,
    damages: u64,
    database_damages: u64,
}

impl Seen {
    /// What is to be said about the list as it is now, in the order of its keys. It is gone through beside
    /// what was seen of it: on a node with a thousand databases a search for each was most of what an idle
    /// agent did.
    fn look<'a>(
        &mut self,
        rows: impl IntoIterator<Item = (&'a Key, &'a DatabaseStatus)>,
        is_ungated: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.lags = false;
        let mut known = std::mem::take(&mut self.rows).into_iter().peekable();
        for (key, row) in rows {
            let mut old = None;
            while let Some((met, _)) = known.peek() {
                match met.cmp(key) {
                    Ordering::Less => drop(known.next()), // it is gone
                    Ordering::Equal => {
                        old = known.next();
                        break;
                    }
                    Ordering::Greater => break,
                }
            }
            let before = old.as_ref().map(|(_, row)| *row);
            let seen = Row::of(row, before, now);
            let news = news(row, before.map(|old| old.state), || {
                is_ungated(&row.pod_uid)
            });
            if let Some(reason) = news {
                notices.push(notice(row, reason, words(row)));
            }
            seen.tell(row, before, &mut notices);
            self.lags |= seen.lags;
            let key = old.map_or_else(|| key.clone(), |(key, _)| key);
            self.rows.push((key, seen));
        }
        notices
    }
}

impl Row {
    fn of(row: &DatabaseStatus, old: Option<Self>, now: Instant) -> Self {
        let told = old.is_some_and(|old| old.lags);
        Self {
            state: row.state,
            lags: row.lag(now) >= if told { LAG_OVER } else { LAG_TOLD },
            linked: row.names > 1,
            damages: row.replica.damages,
            database_damages: row.replica.database_damages,
        }
    }

    /// What is new beside the state.
    fn tell(&self, row: &DatabaseStatus, old: Option<Self>, notices: &mut Vec<Notice>) {
        if self.lags && old.is_none_or(|old| !old.lags) {
            let why = row.last_error.as_ref().or(row.reason.as_ref());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            let note = format!(
                "commits of {} wait to be replicated for over a minute{why}",
                row.id
            );
            notices.push(notice(row, Reason::Lagging, note));
        }
        if self.linked && old.is_none_or(|old| !old.linked) {
            notices.push(notice(row, Reason::HardLink, words(row)));
        }
        if old.is_none_or(|old| old.damages < self.damages)
            && let Some(damage) = &row.replica.last_damage
        {
            let note = format!("the replica of {} is damaged: {damage}", row.id);
            notices.push(notice(row, Reason::ReplicaDamaged, note));
        }
        if old.is_none_or(|old| old.database_damages < self.database_damages)
            && let Some(damage) = row.replica.database_damage()
        {
            let note = format!("{}: {damage}", row.id);
            notices.push(notice(row, Reason::DatabaseDamaged, note));
        }
    }
}

/// What a change of state means to a person.
fn news(
    row: &DatabaseStatus,
    before: Option<State>,
    is_ungated: impl FnOnce() -> bool,
) -> Option<Reason> {
    if before == Some(row.state) {
        return None;
    }
    match row.state {
        State::Restoring => Some(Reason::RestoreStarted),
        State::Unsupported => Some(Reason::Unsupported),
        State::Fenced => Some(match before {
            Some(State::Following | State::Snapshotting) => Reason::Fenced,
            _ if is_ungated() => Reason::UngatedStart,
            _ => Reason::ReplicaConflict,
        }),
        State::Found
        | State::Snapshotting
        | State::Following
        | State::Draining
        | State::Gone
        | State::Stalled => None,
    }
}

fn notice(row: &DatabaseStatus, reason: Reason, note: String) -> Notice {
    let pod = PodName {
        namespace: row.id.namespace().to_owned(),
        name: row.pod.clone(),
        uid: row.pod_uid.clone(),
    };
    Notice { pod, reason, note }
}

fn words(row: &DatabaseStatus) -> String {
    let parts = [row.reason.as_deref(), row.hint.as_deref()];
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        return format!("{}: {}", row.id, row.state);
    }
    format!("{}: {}", row.id, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use sqlrep_pipeline::{DbId, QuickCheck, Txid};

    use super::*;

    fn row(state: State) -> DatabaseStatus {
        let id = DbId::new("media", "surmai", "data", Path::new("x.db")).unwrap();
        let mut row = DatabaseStatus::new(id, "surmai-1", "u");
        row.state = state;
        row
    }

    fn reasons(seen: &mut Seen, row: &DatabaseStatus, ungated: bool) -> Vec<Reason> {
        let key = Key {
            pod_uid: row.pod_uid.clone(),
            volume: "data".to_owned(),
            path: "x.db".into(),
        };
        let notices = seen.look([(&key, row)], |_| ungated, Instant::now());
        notices.iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn a_state_is_told_once_and_by_what_came_before_it() {
        let mut seen = Seen::default();
        assert_eq!(reasons(&mut seen, &row(State::Following), false), []);
        assert_eq!(
            reasons(&mut seen, &row(State::Fenced), false),
            [Reason::Fenced]
        );
        assert_eq!(reasons(&mut seen, &row(State::Fenced), false), []);
        for (ungated, reason) in [
            (true, Reason::UngatedStart),
            (false, Reason::ReplicaConflict),
        ] {
            let mut seen = Seen::default();
            assert_eq!(reasons(&mut seen, &row(State::Found), ungated), []);
            assert_eq!(reasons(&mut seen, &row(State::Fenced), ungated), [reason]);
        }
    }

    #[test]
    fn a_database_that_was_gone_is_another_one() {
        let mut seen = Seen::default();
        assert_eq!(
            reasons(&mut seen, &row(State::Fenced), false),
            [Reason::ReplicaConflict]
        );
        assert!(seen.look([], |_| false, Instant::now()).is_empty());
        assert!(seen.rows.is_empty());
        assert_eq!(
            reasons(&mut seen, &row(State::Fenced), false),
            [Reason::ReplicaConflict]
        );
    }

    #[test]
    fn of_many_each_is_told_once_whichever_come_and_go() {
        let key = |number: u32| Key {
            pod_uid: format!("u{number}"),
            volume: "data".to_owned(),
            path: "x.db".into(),
        };
        let fenced = row(State::Fenced);
        let mut seen = Seen::default();
        let mut before: Vec<u32> = Vec::new();
        for round in 0..200_u32 {
            // Some of twenty, others each time.
            let now: Vec<u32> = (10..30)
                .filter(|n| (round * 7919 + n * n * 31) % 5 < 3)
                .collect();
            let keys: Vec<Key> = now.iter().map(|number| key(*number)).collect();
            let rows = keys.iter().map(|key| (key, &fenced));
            let told = seen.look(rows, |_| false, Instant::now()).len();
            let new = now.iter().filter(|number| !before.contains(number)).count();
            assert_eq!(told, new, "round {round}");
            before = now;
        }
    }

    #[test]
    fn damage_is_told_each_time_it_is_found() {
        let mut seen = Seen::default();
        let damaged = |times, now: bool| {
            let mut row = row(State::Following);
            row.replica.damages = times;
            let text = || "a file is corrupt".to_owned();
            row.replica.last_damage = (times > 0).then(text);
            row.replica.damage = now.then(text);
            row
        };
        let told = [Reason::ReplicaDamaged];
        assert_eq!(reasons(&mut seen, &damaged(0, false), false), []);
        assert_eq!(reasons(&mut seen, &damaged(1, true), false), told);
        assert_eq!(reasons(&mut seen, &damaged(1, true), false), []);
        assert_eq!(reasons(&mut seen, &damaged(2, true), false), told);
        assert_eq!(reasons(&mut seen, &damaged(2, false), false), []);
        // Also when it is whole again before anybody looked.
        assert_eq!(reasons(&mut seen, &damaged(3, false), false), told);
    }

    #[test]
    fn a_damaged_database_is_told_each_time_it_is_looked_at() {
        let mut seen = Seen::default();
        let checked = |times, check| {
            let mut row = row(State::Following);
            row.replica.database_damages = times;
            row.replica.quick_check = Some((SystemTime::UNIX_EPOCH, Txid::FIRST, check));
            row
        };
        let damaged = || QuickCheck::Damaged(vec!["Page 3: never used".to_owned()]);
        let told = [Reason::DatabaseDamaged];
        assert_eq!(reasons(&mut seen, &checked(0, QuickCheck::Ok), false), []);
        assert_eq!(reasons(&mut seen, &checked(1, damaged()), false), told);
        assert_eq!(reasons(&mut seen, &checked(1, damaged()), false), []);
        assert_eq!(reasons(&mut seen, &checked(1, QuickCheck::Ok), false), []);
        assert_eq!(reasons(&mut seen, &checked(2, damaged()), false), told);
    }

    #[test]
    fn a_second_name_is_told_once_as_long_as_it_is_there() {
        let mut seen = Seen::default();
        let named = |names| {
            let mut row = row(State::Following);
            row.names = names;
            row
        };
        assert_eq!(reasons(&mut seen, &named(1), false), []);
        assert_eq!(reasons(&mut seen, &named(2), false), [Reason::HardLink]);
        assert_eq!(reasons(&mut seen, &named(3), false), []);
        assert_eq!(reasons(&mut seen, &named(1), false), []);
        assert_eq!(reasons(&mut seen, &named(2), false), [Reason::HardLink]);
    }

    #[test]
    fn lag_is_told_once_until_it_was_over() {
        let mut seen = Seen::default();
        let behind = |seconds| {
            let mut row = row(State::Following);
            row.behind_since = Instant::now().checked_sub(Duration::from_secs(seconds));
            row
        };
        assert_eq!(reasons(&mut seen, &behind(59), false), []);
        assert_eq!(reasons(&mut seen, &behind(60), false), [Reason::Lagging]);
        assert_eq!(reasons(&mut seen, &behind(600), false), []);
        assert_eq!(reasons(&mut seen, &behind(30), false), []);
        assert_eq!(reasons(&mut seen, &behind(70), false), []);
        assert_eq!(reasons(&mut seen, &behind(1), false), []);
        assert_eq!(reasons(&mut seen, &behind(61), false), [Reason::Lagging]);
    }
}
