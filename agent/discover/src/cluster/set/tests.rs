//! What a set of pods comes to, without a server: answers are put in by hand.

use kube::{Client, Config};

use super::*;
use crate::pods::manifest::OwnerReference;

fn pod(uid: &str) -> Manifest {
    let text = crate::fixture::manifest(uid, "");
    serde_norway::from_str(&text).unwrap()
}

/// A set and lookups whose server is nowhere.
fn set() -> (PodSet, Lookups) {
    let nowhere = Config::new("http://127.0.0.1:1".parse().unwrap());
    let lookups = Lookups::new(Client::try_from(nowhere).unwrap());
    (PodSet::new("node-a".into()), lookups)
}

fn list(set: &mut PodSet, pods: &[&str]) -> BTreeSet<Question> {
    set.begin_list();
    for uid in pods {
        set.listed(pod(uid));
    }
    set.end_list()
}

fn uids(wanted: &Wanted) -> Vec<&str> {
    wanted.pods.keys().map(PodUid::as_str).collect()
}

fn namespace() -> Question {
    Question::Namespace("media".into())
}

#[tokio::test]
async fn nobody_is_told_before_the_first_list_is_whole() {
    let (mut set, mut lookups) = set();
    lookups.insert(namespace(), Some("ns-1".into()));
    set.begin_list();
    set.listed(pod("a"));
    assert!(set.wanted(&mut lookups).is_none());
    set.end_list();
    let wanted = set.wanted(&mut lookups).unwrap();
    assert_eq!(uids(&wanted), ["a"]);
    let told = wanted.pods.values().next().unwrap();
    assert_eq!(told.namespace_uid.as_deref(), Some("ns-1"));
}

#[tokio::test]
async fn a_list_that_breaks_off_takes_nobody_away() {
    let (mut set, mut lookups) = set();
    lookups.insert(namespace(), None);
    list(&mut set, &["a", "b"]);
    set.begin_list();
    set.listed(pod("c"));
    assert_eq!(uids(&set.wanted(&mut lookups).unwrap()), ["a", "b"]);
    list(&mut set, &["b"]);
    assert_eq!(uids(&set.wanted(&mut lookups).unwrap()), ["b"]);
    set.deleted("b");
    assert_eq!(uids(&set.wanted(&mut lookups).unwrap()), [""; 0]);
}

#[tokio::test]
async fn a_pod_waits_for_what_its_identity_needs_and_the_first_list_for_all_its_pods() {
    let (mut set, mut lookups) = set();
    let mut job = pod("a");
    job.metadata.owner_references = vec![OwnerReference {
        kind: "Job".into(),
        name: "by-hand".into(),
        uid: "j".into(),
        controller: Some(true),
    }];
    let questions = Question::all(&job);
    set.begin_list();
    set.listed(job);
    set.end_list();
    lookups.insert(namespace(), None);
    assert!(set.wanted(&mut lookups).is_none());
    lookups.insert(questions[1].clone(), Some("nightly".into()));
    let wanted = set.wanted(&mut lookups).unwrap();
    assert_eq!(wanted.pods.values().next().unwrap().app, "nightly");
}

#[tokio::test]
async fn a_pod_that_is_not_known_well_enough_does_not_hold_up_the_others_later() {
    let (mut set, mut lookups) = set();
    lookups.insert(namespace(), None);
    list(&mut set, &["a"]);
    set.wanted(&mut lookups).unwrap();
    let mut other = pod("b");
    other.metadata.namespace = "elsewhere".into();
    set.changed(other);
    let wanted = set.wanted(&mut lookups).unwrap();
    assert_eq!(uids(&wanted), ["a"]);
    assert_eq!(
        wanted.undecided,
        BTreeSet::from([PodUid::new("b").unwrap()])
    );
}

#[tokio::test]
async fn what_was_looked_up_for_pods_that_are_gone_is_not_believed_of_new_ones() {
    let (mut set, mut lookups) = set();
    lookups.insert(namespace(), Some("ns-old".into()));
    list(&mut set, &["a"]);
    set.wanted(&mut lookups).unwrap();
    // the namespace was made anew while nobody looked
    lookups.forget_all_but(&list(&mut set, &["b"]));
    let wanted = set.wanted(&mut lookups).unwrap();
    assert_eq!(uids(&wanted), [""; 0]);
    assert_eq!(wanted.undecided.len(), 1);
}

#[tokio::test]
async fn a_pod_that_did_not_opt_in_costs_no_question() {
    let (mut set, mut lookups) = set();
    let mut off = pod("a");
    off.metadata
        .labels
        .insert("sqlrep.io/replicate".into(), "false".into());
    let mut wrong = pod("b");
    wrong
        .metadata
        .labels
        .insert("sqlrep.io/replicate".into(), "yes".into());
    set.begin_list();
    set.listed(off);
    set.listed(wrong);
    set.end_list();
    let wanted = set.wanted(&mut lookups).unwrap();
    assert_eq!(uids(&wanted), [""; 0]);
    assert_eq!(wanted.bad_labels.len(), 1);
}
