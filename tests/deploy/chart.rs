//! Kustomize and the chart render the same, with each choice that both have.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::tools::{deploy, helm, helm_text, installation, kustomize};

const MONITORING: (&str, &str) = ("  # - components/monitoring", "  - components/monitoring");

/// Fails with every difference on a line of its own.
fn assert_same(edits: &[(&str, &str)], values: &[&str], has_policies: bool) -> Result<()> {
    let first = installation(edits)?;
    let second = helm(values, has_policies)?.without_release();
    let differences = first.differences(&second);
    ensure!(
        differences.is_empty(),
        "kustomize with {edits:?} and helm with {values:?} differ:\n  {}",
        differences.join("\n  ")
    );
    Ok(())
}

#[test]
fn both_render_the_same_by_default() -> Result<()> {
    assert_same(&[], &[], true)
}

#[test]
fn both_render_the_same_with_everything_on() -> Result<()> {
    let values = [
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboards.enabled=true",
    ];
    assert_same(&[MONITORING], &values, true)
}

#[test]
fn both_render_the_same_with_another_image_and_another_nas() -> Result<()> {
    let edits = [
        (
            "newName: localhost/sqlrep",
            "newName: registry.local/sqlrep",
        ),
        ("newTag: 0.1.0", "newTag: 9.9.9"),
        ("value: nas.example.com", "value: 192.0.2.1"),
        ("value: /volume1/sqlrep", "value: /export"),
    ];
    let values = [
        "image.repository=registry.local/sqlrep",
        "image.tag=9.9.9",
        "replicas.nfs.server=192.0.2.1",
        "replicas.nfs.path=/export",
    ];
    assert_same(&edits, &values, true)
}

#[test]
fn both_render_the_same_for_other_kubelets() -> Result<()> {
    for (component, dir) in [
        ("k0s", "/var/lib/k0s/kubelet"),
        ("microk8s", "/var/snap/microk8s/common/var/lib/kubelet"),
    ] {
        let edit = format!("  - components/{component}");
        let value = format!("kubeletDir={dir}");
        assert_same(&[("  # - components/k0s", &edit)], &[&value], true)?;
    }
    Ok(())
}

#[test]
fn a_cluster_without_the_policies_gets_none() -> Result<()> {
    let without = helm(&[], false)?;
    let mutating = |key: &&str| key.starts_with("MutatingAdmissionPolicy");
    ensure!(
        !without.keys().iter().any(mutating),
        "a cluster of 1.33 would refuse {:?}",
        without.keys()
    );
    ensure!(without.holds("ValidatingAdmissionPolicy /warnings.sqlrep.io"));
    let with = helm(&[], true)?;
    ensure!(with.holds("MutatingAdmissionPolicy /gate.sqlrep.io"));
    let off = helm(&["admission.policies=false"], true)?;
    ensure!(!off.keys().iter().any(mutating));
    Ok(())
}

#[test]
fn the_gate_comes_from_the_agent_s_image() -> Result<()> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let objects = helm(&[&format!("image.digest={digest}")], true)?;
    let image = json!(format!("localhost/sqlrep@{digest}"));
    ensure!(objects.agent()?["image"] == image);
    ensure!(objects.get("ConfigMap sqlrep/sqlrep-gate")?["data"]["image"] == image);
    Ok(())
}

#[test]
fn values_reach_the_objects() -> Result<()> {
    let values = [
        "agent.sync-interval=500ms",
        "extraArgs[0]=--log-format=json",
        "replicas.storageClassName=nfs",
        "serviceAccount.name=other",
        "tolerations=null",
        "podLabels.team=data",
    ];
    let objects = helm(&values, true)?;
    let args = objects.agent()?["args"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for flag in ["--sync-interval=500ms", "--log-format=json"] {
        ensure!(args.contains(&json!(flag)), "{args:?} lacks {flag}");
    }
    let claim = objects.get("PersistentVolumeClaim sqlrep/sqlrep-replicas")?;
    ensure!(claim["spec"]["storageClassName"] == "nfs");
    ensure!(
        claim["spec"]["volumeName"].is_null(),
        "a class makes volumes"
    );
    ensure!(!objects.holds("PersistentVolume /sqlrep-replicas"));
    ensure!(objects.pod()?["serviceAccountName"] == "other");
    ensure!(objects.pod()?["tolerations"].is_null());
    ensure!(objects.holds("ServiceAccount sqlrep/other"));
    for binding in [
        "ClusterRoleBinding /sqlrep-agent",
        "RoleBinding sqlrep/sqlrep-agent",
    ] {
        let subject = &objects.get(binding)?["subjects"][0]["name"];
        ensure!(*subject == "other", "{binding} binds {subject}");
    }
    let set = objects.get("DaemonSet sqlrep/sqlrep-agent")?;
    ensure!(set["spec"]["template"]["metadata"]["labels"]["team"] == "data");
    Ok(())
}

#[test]
fn wrong_values_are_refused_by_name() -> Result<()> {
    for (value, place) in [
        ("kubeletDir=var/lib/kubelet", "kubeletDir"),
        ("kubeletDir=/var/lib/kubelet/", "kubeletDir"),
        ("agent.sync-interval=fast", "sync-interval"),
        ("agent.pods=kube", "pods"),
        ("image.digest=sha1:0", "digest"),
        ("admission.policies=maybe", "policies"),
        ("replicass.size=1Gi", "replicass"),
    ] {
        match helm_text(&[value], true) {
            Ok(_) => anyhow::bail!("{value} was taken"),
            Err(error) => {
                let words = error.to_string();
                ensure!(words.contains(place), "{value}: {words}");
            }
        }
    }
    Ok(())
}

#[test]
fn each_flag_of_the_schema_and_of_the_daemonset_is_one_of_the_agent() -> Result<()> {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["run", "--help"])
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    let schema: Value =
        serde_json::from_slice(&std::fs::read(deploy("helm/sqlrep/values.schema.json"))?)?;
    let flags = schema["properties"]["agent"]["properties"].as_object();
    let mut names: Vec<String> = flags
        .into_iter()
        .flatten()
        .map(|(name, _)| format!("--{name}"))
        .collect();
    ensure!(names.len() > 5, "{names:?}");
    let objects = installation(&[])?;
    let args = objects.agent()?["args"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    names.extend(args.iter().filter_map(Value::as_str).skip(1).map(|arg| {
        let name = arg.split('=').next().unwrap_or(arg);
        name.to_owned()
    }));
    for name in names {
        ensure!(
            help.contains(&format!("{name} ")),
            "the agent has no {name}"
        );
    }
    Ok(())
}

#[test]
fn each_example_renders() -> Result<()> {
    let mut seen = 0;
    for entry in std::fs::read_dir(deploy("examples"))? {
        let path = entry?.path();
        if path.join("kustomization.yaml").exists() {
            kustomize(&path)?;
            seen += 1;
        }
    }
    ensure!(seen >= 2, "only {seen} examples were found");
    Ok(())
}
