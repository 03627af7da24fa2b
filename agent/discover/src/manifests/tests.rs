//! Manifests on disk: half-written, broken, doubled, too many, too large.

use std::fmt::Write;

use super::*;
use crate::fixture::{World, manifest, pod};

/// Looks through the directory until nothing is due.
fn read(manifests: &mut Manifests) -> (Vec<String>, Vec<String>) {
    let mut events = Vec::new();
    let now = Instant::now();
    manifests.look_through(now, &mut events);
    manifests.refresh(now + AWAY, &mut events);
    let wanted = manifests.wanted(&mut events);
    let reasons = events.into_iter().map(|event| match event {
        Event::BadManifest { path, reason } => {
            format!("{}: {reason}", path.file_name().unwrap().display())
        }
        other => panic!("{other:?}"),
    });
    (
        wanted.pods.keys().map(ToString::to_string).collect(),
        reasons.collect(),
    )
}

fn open(world: &World) -> Manifests {
    Manifests::new(&world.manifests(), "node-a", &world.limits).unwrap()
}

#[test]
fn every_form_of_manifest_is_read() {
    let world = World::new();
    let two = format!(
        "# two\n---\n{}---\n{}---\n",
        manifest("a", ""),
        manifest("b", "")
    );
    world.write_manifest("two.yaml", &two);
    world.write_manifest("one.yml", &manifest("c", ""));
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"d","uid":"d",
        "labels":{"sqlrep.io/replicate":"true"},"ownerReferences":null},"spec":{"volumes":null}}"#;
    world.write_manifest("one.json", json);
    let item = json.replace("\"apiVersion\":\"v1\",\"kind\":\"Pod\",", "");
    let item = item.replace(":\"d\"", ":\"e\"");
    let list = format!(r#"{{"apiVersion":"v1","kind":"PodList","items":[{item}]}}"#);
    world.write_manifest("list.json", &list);
    world.write_manifest("readme.txt", "not read");
    world.write_manifest(".hidden.yaml", "not: [read");
    assert_eq!(
        read(&mut open(&world)),
        (
            vec!["a".into(), "b".into(), "c".into(), "d".into(), "e".into()],
            vec![]
        )
    );
}

#[test]
fn broken_file_is_told_once_keeps_what_it_said_and_is_read_when_mended() {
    let world = World::new();
    world.write_manifest("p.yaml", &manifest("a", ""));
    let mut manifests = open(&world);
    assert_eq!(read(&mut manifests).0, ["a"]);
    world.write_manifest("p.yaml", "apiVersion: v1\nkind: [");
    let (pods, reasons) = read(&mut manifests);
    assert_eq!(pods, ["a"]);
    let [reason] = &reasons[..] else {
        panic!("{reasons:?}")
    };
    assert!(
        reason.contains("p.yaml: is no valid YAML") && reason.contains("still holds"),
        "{reason}"
    );
    assert_eq!(read(&mut manifests), (vec!["a".into()], vec![]));
    world.write_manifest("p.yaml", "");
    assert_eq!(
        read(&mut manifests),
        (vec!["a".into()], vec![]),
        "about to be written"
    );
    world.write_manifest("p.yaml", &manifest("b", ""));
    assert_eq!(read(&mut manifests), (vec!["b".into()], vec![]));
    fs::remove_file(world.manifests().join("p.yaml")).unwrap();
    assert_eq!(read(&mut manifests), (vec![], vec![]));
}

#[test]
fn manifest_without_uid_is_told_and_its_neighbours_go_on() {
    let world = World::new();
    let nameless = manifest("a", "").replace("  uid: a\n", "");
    world.write_manifest("p.yaml", &format!("{nameless}---\n{}", manifest("b", "")));
    let mut manifests = open(&world);
    let (pods, reasons) = read(&mut manifests);
    assert_eq!(pods, ["b"]);
    assert!(
        reasons[0].contains("pod a has no metadata.uid"),
        "{reasons:?}"
    );
    assert_eq!(read(&mut manifests).1, Vec::<String>::new(), "said once");
}

#[test]
fn uid_belongs_to_the_first_file() {
    let world = World::new();
    world.write_manifest("1.yaml", &manifest("a", ""));
    world.write_manifest("2.yaml", &manifest("a", "").replace("media", "other"));
    let mut manifests = open(&world);
    let (_, reasons) = read(&mut manifests);
    assert!(
        reasons[0].starts_with("2.yaml: pod UID a is in 1.yaml already"),
        "{reasons:?}"
    );
    let mut events = Vec::new();
    let wanted = manifests.wanted(&mut events);
    assert_eq!(wanted.pods[&pod("a")].namespace, "media");
    assert_eq!(events, [], "said once");
}

#[test]
fn size_and_number_of_files_are_bounded() {
    let mut world = World::new();
    world.limits.manifest_bytes_max = 1_000;
    world.limits.manifests_max = 2;
    world.write_manifest(
        "1.yaml",
        &format!("#{}\n{}", "x".repeat(1_000), manifest("a", "")),
    );
    world.write_manifest("2.yaml", &manifest("b", ""));
    world.write_manifest("3.yaml", &manifest("c", ""));
    let (pods, reasons) = read(&mut open(&world));
    assert_eq!(pods, ["b"]);
    assert!(
        reasons[0].contains("holds 3 manifests, 2 are read"),
        "{reasons:?}"
    );
    assert!(
        reasons[1].contains("1.yaml: is larger than 1000 bytes"),
        "{reasons:?}"
    );
}

#[test]
fn hostile_yaml_is_an_error_and_no_more() {
    let world = World::new();
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for level in 1..40 {
        writeln!(bomb, "a{level}: &a{level} [*a{0}, *a{0}, *a{0}]", level - 1).unwrap();
    }
    world.write_manifest("bomb.yaml", &format!("{bomb}metadata: *a39\n"));
    world.write_manifest("deep.yaml", &"[".repeat(100_000));
    world.write_manifest("deep.json", &"[".repeat(100_000));
    world.write_manifest(
        "list.json",
        &format!("{}{}", r#"{"kind":"List","items":["#.repeat(5_000), "1"),
    );
    let (pods, reasons) = read(&mut open(&world));
    assert_eq!((pods.len(), reasons.len()), (0, 4), "{reasons:?}");
}

#[test]
fn fifo_and_directory_in_place_of_a_file_are_told() {
    let world = World::new();
    let fifo = world.manifests().join("fifo.yaml");
    rustix::fs::mkfifoat(rustix::fs::CWD, fifo, rustix::fs::Mode::RWXU).unwrap();
    fs::create_dir(world.manifests().join("dir.yaml")).unwrap();
    let (_, reasons) = read(&mut open(&world));
    assert_eq!(
        reasons,
        [
            "dir.yaml: is no regular file",
            "fifo.yaml: is no regular file"
        ]
    );
}

#[test]
fn directory_that_vanishes_takes_no_pods_with_it() {
    let world = World::new();
    world.write_manifest("p.yaml", &manifest("a", ""));
    let mut manifests = open(&world);
    read(&mut manifests);
    fs::remove_dir_all(world.manifests()).unwrap();
    let (pods, reasons) = read(&mut manifests);
    assert_eq!(pods, ["a"]);
    assert!(
        reasons[0].contains("the pods known from it stay"),
        "{reasons:?}"
    );
}

#[test]
fn file_that_an_editor_moves_aside_is_not_gone() {
    let world = World::new();
    world.write_manifest("p.yaml", &manifest("a", ""));
    let mut manifests = open(&world);
    read(&mut manifests);
    let now = Instant::now();
    manifests.went(OsStr::new("p.yaml"), now);
    assert!(!manifests.refresh(now, &mut Vec::new()), "not yet");
    manifests.came(OsStr::new("p.yaml"), now);
    assert!(manifests.refresh(now, &mut Vec::new()));
    assert_eq!(manifests.wanted(&mut Vec::new()).pods.len(), 1);
}
