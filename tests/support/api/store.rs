//! The objects of the stand-in, their versions, and what happened to them lately.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Where an object is: resource, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    resource: String,
    namespace: String,
    name: String,
}

impl Place {
    pub(super) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// Who is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// `spec.nodeName`.
    pub(super) node: Option<String>,
    /// A label that must be there.
    pub(super) label: Option<String>,
}

impl Selector {
    fn takes(&self, object: &Value) -> bool {
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
        let labels = &object["metadata"]["labels"];
        self.node.as_ref().is_none_or(|wanted| wanted == node)
            && self
                .label
                .as_ref()
                .is_none_or(|key| labels[key].is_string())
    }
}

/// Something that happened.
#[derive(Debug)]
struct Change {
    version: u64,
    resource: String,
    before: Option<Value>,
    after: Option<Value>,
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Place, Value>,
    changes: Vec<Change>,
    version: u64,
    /// Up to here nothing is remembered.
    forgotten: u64,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn put(&mut self, resource: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let place = Place::new(resource, &text("namespace"), &text("name"));
        let before = self.objects.insert(place, object.clone());
        self.record(resource, before, Some(object));
    }

    pub(super) fn delete(&mut self, place: &Place) {
        if let Some(mut object) = self.objects.remove(place) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.record(&place.resource, Some(object), None);
        }
    }

    fn record(&mut self, resource: &str, before: Option<Value>, after: Option<Value>) {
        self.changes.push(Change {
            version: self.version,
            resource: resource.to_owned(),
            before,
            after,
        });
    }

    /// Nothing that happened is remembered any more.
    pub(super) fn forget(&mut self) {
        // One more, so that whoever is up to date is not any more.
        self.version += 1;
        self.forgotten = self.version;
        self.changes.clear();
    }

    pub(super) fn get(&self, place: &Place) -> Option<Value> {
        self.objects.get(place).cloned()
    }

    pub(super) fn list(&self, resource: &str, selector: &Selector) -> Vec<Value> {
        let all = self
            .objects
            .iter()
            .filter(|(place, _)| place.resource == resource);
        let taken = all.filter(|(_, object)| selector.takes(object));
        taken.map(|(_, object)| object.clone()).collect()
    }

    /// What happened after a version, as a watch with this selector sees it; `None` when that is
    /// not remembered.
    pub(super) fn since(
        &self,
        resource: &str,
        selector: &Selector,
        seen: u64,
    ) -> Option<Vec<Value>> {
        if seen < self.forgotten {
            return None;
        }
        let news = self.changes.iter().filter(|change| change.version > seen);
        let news = news.filter(|change| change.resource == resource);
        Some(news.filter_map(|change| change.event(selector)).collect())
    }
}

impl Change {
    fn event(&self, selector: &Selector) -> Option<Value> {
        let taken =
            |object: &Option<Value>| object.as_ref().is_some_and(|object| selector.takes(object));
        let kind = match (taken(&self.before), taken(&self.after)) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let object = self.after.as_ref().or(self.before.as_ref())?;
        Some(json!({"type": kind, "object": object}))
    }
}
