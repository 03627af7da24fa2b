//! The gate as the policy adds it, and as deploy/README.md tells people to write it by hand.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::tools::{deploy, installation};

/// The init container of the first YAML block of the README that has one.
fn by_hand() -> Result<Value> {
    let text = std::fs::read_to_string(deploy("README.md"))?;
    let block = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("sqlrep-gate"))
        .context("deploy/README.md shows no gate")?;
    let pod: Value = serde_norway::from_str(block)?;
    Ok(pod["initContainers"][0].clone())
}

#[test]
fn the_gate_by_hand_is_restricted() -> Result<()> {
    let gate = by_hand()?;
    let context = &gate["securityContext"];
    ensure!(context["runAsNonRoot"] == json!(true), "{context}");
    ensure!(
        context["allowPrivilegeEscalation"] == json!(false),
        "{context}"
    );
    ensure!(
        context["capabilities"] == json!({"drop": ["ALL"]}),
        "{context}"
    );
    ensure!(
        context["seccompProfile"] == json!({"type": "RuntimeDefault"}),
        "{context}"
    );
    Ok(())
}

#[test]
fn the_policy_adds_the_gate_that_the_page_shows() -> Result<()> {
    let gate = by_hand()?;
    let objects = installation(&[])?;
    let policy = objects.get("MutatingAdmissionPolicy /gate.sqlrep.io")?;
    let expression = policy["spec"]["mutations"][0]["jsonPatch"]["expression"]
        .as_str()
        .context("the policy has an expression")?;
    let mut words = Vec::new();
    leaves(&gate, &mut words);
    ensure!(words.len() > 15, "{words:?}");
    for word in words {
        let image = word.contains("sqlrep:");
        ensure!(
            image || expression.contains(&word),
            "the policy does not say {word}"
        );
    }
    Ok(())
}

/// Every text and truth in it, as CEL writes them.
fn leaves(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| leaves(value, words)),
        Value::Array(list) => list.iter().for_each(|value| leaves(value, words)),
        Value::Null => {}
        other => words.push(other.to_string()),
    }
}

#[test]
fn a_pod_is_refused_rather_than_started_without_its_gate() -> Result<()> {
    let objects = installation(&[])?;
    let policy = objects.get("MutatingAdmissionPolicy /gate.sqlrep.io")?;
    ensure!(policy["spec"]["failurePolicy"] == "Fail");
    let binding = objects.get("MutatingAdmissionPolicyBinding /gate.sqlrep.io")?;
    ensure!(binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Deny");
    let param = &binding["spec"]["paramRef"];
    let (namespace, name) = (param["namespace"].as_str(), param["name"].as_str());
    let key = format!(
        "ConfigMap {}/{}",
        namespace.unwrap_or_default(),
        name.unwrap_or_default()
    );
    objects.get(&key)?;
    Ok(())
}
