//! The way to a volume.

use std::fs as std_fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn volume_is_entered_and_links_on_the_way_are_not() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let pod = PodUid::new("p").unwrap();
    let dir = volume_dir(&root, &pod, "data");
    assert!(dir.ends_with("pods/p/volumes/kubernetes.io~empty-dir/data"));
    std_fs::create_dir_all(&dir).unwrap();
    let kubelet = Kubelet::new(&root).unwrap();
    kubelet.open_volume(&pod, "data").unwrap();
    assert_eq!(kubelet.open_volume(&pod, "none").unwrap_err(), Errno::NOENT);
    // The same tree, reached by a link at each step.
    for step in [
        "pods",
        "pods/p",
        "pods/p/volumes",
        "pods/p/volumes/kubernetes.io~empty-dir",
    ] {
        let other = temp.path().join("other");
        std_fs::create_dir_all(other.join(step).parent().unwrap()).unwrap();
        symlink(root.join(step), other.join(step)).unwrap();
        let linked = Kubelet::new(&other).unwrap();
        assert!(linked.open_volume(&pod, "data").is_err(), "{step}");
        std_fs::remove_dir_all(other).unwrap();
    }
    // A link that stays within the root is a link all the same.
    symlink("p", root.join("pods/q")).unwrap();
    let linked = kubelet.open_volume(&PodUid::new("q").unwrap(), "data");
    assert_eq!(linked.unwrap_err(), Errno::LOOP);
    // The root itself may be a link: the operator made it.
    symlink(&root, temp.path().join("link")).unwrap();
    Kubelet::new(&temp.path().join("link"))
        .unwrap()
        .open_volume(&pod, "data")
        .unwrap();
}

#[test]
fn missing_root_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    assert!(Kubelet::new(&temp.path().join("none")).is_err());
    std_fs::write(temp.path().join("file"), "").unwrap();
    assert!(Kubelet::new(&temp.path().join("file")).is_err());
}

#[test]
fn way_ends_at_the_nearest_directory_that_exists() {
    let temp = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(temp.path()).unwrap();
    let pod = PodUid::new("p").unwrap();
    let here = |path: &str| {
        let (fd, way) = kubelet.open_on_the_way(&pod).unwrap();
        let inode = inode_of(fd).unwrap();
        let wanted = fs::stat(temp.path().join(path)).unwrap();
        (inode.ino == wanted.st_ino, way)
    };
    assert_eq!(here(""), (true, Way::Partly));
    std_fs::create_dir_all(temp.path().join("pods/p")).unwrap();
    assert_eq!(here("pods/p"), (true, Way::Partly));
    let whole = volumes_below_root(&pod);
    std_fs::create_dir_all(temp.path().join(&whole)).unwrap();
    assert_eq!(here(whole.to_str().unwrap()), (true, Way::Whole));
}

#[test]
fn what_is_mounted_inside_a_volume_is_not_entered() {
    // Any mount point will do, and /proc is one everywhere: here the root is "the volume".
    let volume = std_fs::File::open("/").unwrap();
    assert_eq!(
        open_dir(&volume, Path::new("proc")).unwrap_err(),
        Errno::XDEV
    );
    assert!(open_dir(&volume, Path::new("")).is_ok());
}
