//! What the agent's pod and its account may do is what deploy/README.md says, and no more.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::tools::{helm, installation};

fn both() -> Result<[Objects; 2]> {
    Ok([installation(&[])?, helm(&[], true)?])
}

#[test]
fn the_agent_has_six_capabilities_and_no_privilege() -> Result<()> {
    for objects in both()? {
        let context = &objects.agent()?["securityContext"];
        ensure!(context["privileged"].is_null(), "{context}");
        ensure!(
            context["allowPrivilegeEscalation"] == json!(false),
            "{context}"
        );
        ensure!(
            context["readOnlyRootFilesystem"] == json!(true),
            "{context}"
        );
        let drop = &context["capabilities"]["drop"];
        ensure!(*drop == json!(["ALL"]), "{drop}");
        let add = &context["capabilities"]["add"];
        let six = [
            "DAC_OVERRIDE",
            "CHOWN",
            "FOWNER",
            "SETUID",
            "SETGID",
            "SYS_CHROOT",
        ];
        ensure!(*add == json!(six), "{add}");
        let pod = objects.pod()?;
        for key in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
            ensure!(pod[key].is_null(), "{key} is {}", pod[key]);
        }
    }
    Ok(())
}

#[test]
fn the_agent_sees_two_directories_of_its_node() -> Result<()> {
    for objects in both()? {
        let pod = objects.pod()?;
        let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
        let mut paths: Vec<Value> = volumes
            .iter()
            .map(|volume| volume["hostPath"]["path"].clone())
            .filter(|path| !path.is_null())
            .collect();
        paths.sort_by_key(Value::to_string);
        ensure!(
            paths == [json!("/var/lib/kubelet/pods"), json!("/var/lib/sqlrep")],
            "{paths:?}"
        );
        let mounts = objects.agent()?["volumeMounts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let pods = mounts.iter().find(|mount| mount["name"] == "pods");
        let propagation = pods.map(|mount| &mount["mountPropagation"]);
        ensure!(
            propagation == Some(&json!("HostToContainer")),
            "{propagation:?}"
        );
    }
    Ok(())
}

#[test]
fn grpc_is_on_loopback_and_on_a_socket_only() -> Result<()> {
    for objects in both()? {
        let args = objects.agent()?["args"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let listens: Vec<&str> = args
            .iter()
            .filter_map(|arg| arg.as_str()?.strip_prefix("--listen="))
            .collect();
        ensure!(
            listens == ["127.0.0.1:7077", "unix:/var/lib/sqlrep/agent.sock"],
            "{listens:?}"
        );
    }
    Ok(())
}

#[test]
fn the_agent_s_account_reads_and_tells_and_writes_nothing_else() -> Result<()> {
    for objects in both()? {
        let mut writes = Vec::new();
        for role in ["ClusterRole /sqlrep-agent", "Role sqlrep/sqlrep-agent"] {
            for rule in objects.get(role)?["rules"].as_array().into_iter().flatten() {
                let words = rule.to_string();
                ensure!(!words.contains('*'), "{role}: {words}");
                for none in ["secrets", "exec", "nodes/proxy"] {
                    ensure!(!words.contains(none), "{role}: {words}");
                }
                for verb in rule["verbs"].as_array().into_iter().flatten() {
                    if ["get", "list", "watch"].iter().all(|read| verb != read) {
                        writes.push(format!("{verb} {}", rule["resources"]));
                    }
                }
            }
        }
        writes.sort();
        let expected = [
            r#""create" ["configmaps"]"#,
            r#""create" ["events"]"#,
            r#""create" ["subjectaccessreviews"]"#,
            r#""create" ["tokenreviews"]"#,
            r#""patch" ["events"]"#,
        ];
        ensure!(writes == expected, "{writes:?}");
    }
    Ok(())
}

#[test]
fn the_next_agent_of_a_node_is_there_before_the_last_one_goes() -> Result<()> {
    for objects in both()? {
        let set = objects.get("DaemonSet sqlrep/sqlrep-agent")?;
        let rolling = &set["spec"]["updateStrategy"]["rollingUpdate"];
        ensure!(
            *rolling == json!({"maxSurge": "10%", "maxUnavailable": 0}),
            "{rolling}"
        );
        ensure!(objects.pod()?["tolerations"] == json!([{"operator": "Exists"}]));
        let grace = objects.pod()?["terminationGracePeriodSeconds"].as_u64();
        ensure!(
            grace > Some(52),
            "pods that end are followed for up to 20 s, a drain takes up to 30 s, servers 2 s; the \
             pod has {grace:?}"
        );
    }
    Ok(())
}
