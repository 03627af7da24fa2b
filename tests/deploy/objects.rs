//! Rendered objects, by kind, namespace and name.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

/// What Helm adds to say that an object is a release's.
const HELM_LABELS: [&str; 2] = ["app.kubernetes.io/managed-by", "helm.sh/chart"];
const HELM_ANNOTATION: &str = "helm.sh/resource-policy";

/// Objects by `Kind namespace/name`.
#[derive(Debug, Default)]
pub(crate) struct Objects(BTreeMap<String, Value>);

impl Objects {
    /// Reads a stream of YAML documents.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut objects = BTreeMap::new();
        for document in serde_norway::Deserializer::from_str(text) {
            let object = Value::deserialize(document).context("an object that is no YAML")?;
            if object.is_null() {
                continue;
            }
            let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let kind = text("/kind").context("an object without a kind")?;
            let name = text("/metadata/name").context("an object without a name")?;
            let namespace = text("/metadata/namespace").unwrap_or("");
            let key = format!("{kind} {namespace}/{name}");
            ensure!(
                objects.insert(key.clone(), object).is_none(),
                "{key} is there twice"
            );
        }
        ensure!(!objects.is_empty(), "nothing was rendered");
        Ok(Self(objects))
    }

    /// The object of this key; an error when there is none.
    pub(crate) fn get(&self, key: &str) -> Result<&Value> {
        self.0
            .get(key)
            .with_context(|| format!("there is no {key}, only {:?}", self.keys()))
    }

    /// Whether there is such an object.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The agent's pod.
    pub(crate) fn pod(&self) -> Result<&Value> {
        let set = self.get("DaemonSet sqlrep/sqlrep-agent")?;
        set.pointer("/spec/template/spec")
            .context("a DaemonSet without a pod")
    }

    /// The agent's container.
    pub(crate) fn agent(&self) -> Result<&Value> {
        self.pod()?
            .pointer("/containers/0")
            .context("a pod without a container")
    }

    /// Without what Helm says of itself.
    pub(crate) fn without_release(mut self) -> Self {
        for object in self.0.values_mut() {
            if let Some(labels) = object
                .pointer_mut("/metadata/labels")
                .and_then(Value::as_object_mut)
            {
                labels.retain(|key, _| !HELM_LABELS.contains(&key.as_str()));
            }
            let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
                continue;
            };
            if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(HELM_ANNOTATION);
                if annotations.is_empty() {
                    meta.remove("annotations");
                }
            }
        }
        self
    }

    /// In what they differ, one line for each place.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for key in other.0.keys().filter(|key| !self.holds(key)) {
            found.push(format!("{key}: only in the second"));
        }
        for (key, mine) in &self.0 {
            match other.0.get(key) {
                None => found.push(format!("{key}: only in the first")),
                Some(theirs) => compare(key, mine, theirs, &mut found),
            }
        }
        found
    }
}

fn compare(place: &str, mine: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (mine, theirs) {
        (Value::Object(mine), Value::Object(theirs)) => {
            for key in theirs.keys().filter(|key| !mine.contains_key(*key)) {
                found.push(format!("{place}/{key}: only in the second"));
            }
            for (key, value) in mine {
                let place = format!("{place}/{key}");
                match theirs.get(key) {
                    None => found.push(format!("{place}: only in the first")),
                    Some(other) => compare(&place, value, other, found),
                }
            }
        }
        (Value::Array(mine), Value::Array(theirs)) if mine.len() == theirs.len() => {
            for (index, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
                compare(&format!("{place}/{index}"), mine, theirs, found);
            }
        }
        _ if mine == theirs => {}
        _ => found.push(format!("{place}: {mine} and {theirs}")),
    }
}

#[test]
fn differences_are_seen() {
    let read = |text: &str| Objects::read(text).unwrap();
    let one = read("kind: A\nmetadata: {name: x}\nspec: {a: 1, b: [1, 2], c: {d: e}}\n");
    let two = read(
        "kind: A\nmetadata: {name: x}\nspec: {a: 2, b: [1, 3], c: {}}\n---\nkind: B\nmetadata: {name: y, namespace: n}\n",
    );
    assert_eq!(
        one.differences(&two),
        [
            "B n/y: only in the second",
            "A /x/spec/a: 1 and 2",
            "A /x/spec/b/1: 2 and 3",
            "A /x/spec/c/d: only in the first",
        ]
    );
    assert!(one.differences(&one).is_empty());
    assert!(
        Objects::read("kind: A\nmetadata: {name: x}\n---\nkind: A\nmetadata: {name: x}\n").is_err()
    );
    assert!(Objects::read("---\n").is_err());
}
