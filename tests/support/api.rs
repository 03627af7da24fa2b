//! A stand-in for the API server: real HTTP over loopback, as much of Kubernetes as the agent
//! speaks to. It lists, streams lists, watches, sends bookmarks, forgets (410), refuses, hangs and
//! drops connections, as it is told.

mod http;
mod store;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::world::World;
use http::Request;
use store::{Place, Selector, Store};

/// How long a watch sleeps before it looks whether the server still stands.
const LOOK: Duration = Duration::from_millis(100);

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Every answer is this status.
    Status(u16),
    /// Requests are read and never answered.
    Silent,
    /// Nobody is there: each connection ends at once.
    Away,
}

/// A running stand-in; ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    store: Store,
    trouble: Trouble,
    /// Resources that nobody may see.
    refused: Vec<String>,
    /// Whether it knows streaming lists.
    streams: bool,
    /// Watches begun before this was raised are cut.
    cuts: u64,
    /// Bookmarks sent to every watch.
    bookmarks: u64,
    /// When each request came; its method, path and query.
    requests: Vec<(Instant, String)>,
    /// The tokens it knows, and whose they are.
    tokens: Vec<(String, String)>,
    /// What it was asked about somebody's permissions.
    reviews: Vec<Value>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiServer {
    /// Starts one that has the namespaces `kube-system` and `default`.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                store: Store::default(),
                trouble: Trouble::None,
                refused: Vec::new(),
                streams: true,
                cuts: 0,
                bookmarks: 0,
                requests: Vec::new(),
                tokens: Vec::new(),
                reviews: Vec::new(),
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let accepted = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepted.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepted);
                // A connection that breaks is the client's to notice.
                thread::spawn(move || serve(&shared, stream).ok());
            }
        });
        let server = Self { address, shared };
        for name in ["kube-system", "default"] {
            server.namespace(name);
        }
        Ok(server)
    }

    /// Writes a kubeconfig that leads here.
    pub fn kubeconfig(&self, world: &World) -> Result<PathBuf> {
        let path = world.path("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(path)
    }

    /// Makes a namespace; its UID is made from its name.
    pub fn namespace(&self, name: &str) {
        let uid = namespace_uid(name);
        self.put(
            "namespaces",
            json!({"metadata": {"name": name, "uid": uid}}),
        );
    }

    /// Creates or replaces an object.
    pub fn put(&self, resource: &str, object: Value) {
        self.change(|state| state.store.put(resource, object));
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.change(|state| state.store.delete(&Place::new(resource, namespace, name)));
    }

    /// Deletes an object without a word to those who watch: as if they had been away.
    pub fn delete_unseen(&self, resource: &str, namespace: &str, name: &str) {
        self.change(|state| {
            state.store.delete(&Place::new(resource, namespace, name));
            state.store.forget();
        });
    }

    /// All objects of a kind.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        self.shared
            .state()
            .store
            .list(resource, &Selector::default())
    }

    /// What is wrong from now on.
    pub fn trouble(&self, trouble: Trouble) {
        self.change(|state| state.trouble = trouble);
    }

    /// Nobody may see this resource from now on.
    pub fn refuse(&self, resource: &str) {
        self.change(|state| state.refused.push(resource.to_owned()));
    }

    /// An older server: it refuses streaming lists.
    #[must_use]
    pub fn without_streaming_lists(self) -> Self {
        self.change(|state| state.streams = false);
        self
    }

    /// Cuts every watch in the middle of a chunk.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Forgets what happened so far: a watch that goes on from there is told 410.
    pub fn forget(&self) {
        self.change(|state| state.store.forget());
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.change(|state| state.bookmarks += 1);
    }

    /// Knows a token, and whose it is; that user may do everything.
    pub fn know(&self, token: &str, user: &str) {
        let known = (token.to_owned(), user.to_owned());
        self.shared.state().tokens.push(known);
    }

    /// What it was asked about permissions: the `spec` of each SubjectAccessReview.
    pub fn reviews(&self) -> Vec<Value> {
        self.shared.state().reviews.clone()
    }

    /// The requests so far, as `GET /path?query`.
    pub fn requests(&self) -> Vec<String> {
        let arrivals = self.arrivals().into_iter();
        arrivals.map(|(_, request)| request).collect()
    }

    /// The same, each with when it came.
    pub fn arrivals(&self) -> Vec<(Instant, String)> {
        self.shared.state().requests.clone()
    }

    /// Bytes that stand-ins in this process have sent.
    pub fn sent(&self) -> u64 {
        http::SENT.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.change(|state| state.cuts += 1);
        // Wakes the listener, which then ends; that it is gone already is as good.
        drop(TcpStream::connect(self.address));
    }
}

/// The UID that the stand-in gives to a namespace.
pub fn namespace_uid(name: &str) -> String {
    format!("00000000-0000-4000-8000-ns-{name}")
}

/// Serves one connection.
fn serve(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    while let Some(request) = http::read(&mut stream)? {
        let trouble = {
            let mut state = shared.state();
            let (method, target) = (&request.method, &request.target);
            let request = format!("{method} {target}");
            state.requests.push((Instant::now(), request));
            state.trouble
        };
        match trouble {
            Trouble::Silent => {
                while shared.state().trouble == Trouble::Silent
                    && !shared.stop.load(Ordering::Relaxed)
                {
                    thread::sleep(LOOK);
                }
                return Ok(());
            }
            Trouble::Away => return Ok(()),
            Trouble::Status(code) => http::respond(&mut stream, code, &status(code, "trouble"))?,
            Trouble::None if request.query("watch") == Some("true".into()) => {
                return watch(shared, &mut stream, &request);
            }
            Trouble::None => {
                let (code, body) = {
                    let mut state = shared.state();
                    answer(&mut state, &request)
                };
                shared.changed.notify_all();
                http::respond(&mut stream, code, &body)?;
            }
        }
    }
    Ok(())
}

/// Everything but watches.
fn answer(state: &mut State, request: &Request) -> (u16, Value) {
    let Some((resource, namespace, name)) = request.place() else {
        return (404, status(404, "NotFound"));
    };
    if state.refused.contains(&resource) {
        return (403, status(403, "Forbidden"));
    }
    if request.method == "POST" && resource.ends_with("reviews") {
        return review(state, &resource, &request.body);
    }
    let store = &mut state.store;
    let place = Place::new(&resource, &namespace, &name);
    match request.method.as_str() {
        "GET" if name.is_empty() => {
            let items = store.list(&resource, &request.selector());
            let version = store.version().to_string();
            let list = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": version}, "items": items});
            (200, list)
        }
        "GET" => match store.get(&place) {
            Some(object) => (200, object),
            None => (404, status(404, "NotFound")),
        },
        "POST" => {
            let Ok(mut object) = serde_json::from_slice::<Value>(&request.body) else {
                return (400, status(400, "BadRequest"));
            };
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if store
                .get(&Place::new(&resource, &namespace, name))
                .is_some()
            {
                return (409, status(409, "AlreadyExists"));
            }
            object["metadata"]["namespace"] = json!(namespace);
            store.put(&resource, object.clone());
            (201, object)
        }
        "PATCH" => match (store.get(&place), serde_json::from_slice(&request.body)) {
            (Some(mut object), Ok(patch)) => {
                merge(&mut object, &patch);
                store.put(&resource, object.clone());
                (200, object)
            }
            (None, _) => (404, status(404, "NotFound")),
            (_, Err(_)) => (400, status(400, "BadRequest")),
        },
        _ => (405, status(405, "MethodNotAllowed")),
    }
}

/// Whose a token is, and whether somebody may do something: whoever is known may.
fn review(state: &mut State, resource: &str, body: &[u8]) -> (u16, Value) {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return (400, status(400, "BadRequest"));
    };
    if resource == "tokenreviews" {
        let token = object["spec"]["token"].as_str().unwrap_or_default();
        let known = state.tokens.iter().find(|(known, _)| known == token);
        object["status"] = match known {
            Some((_, user)) => json!({"authenticated": true, "user": {"username": user},
                "audiences": object["spec"]["audiences"]}),
            None => json!({"authenticated": false}),
        };
    } else {
        state.reviews.push(object["spec"].clone());
        object["status"] = json!({"allowed": true});
    }
    (201, object)
}

/// RFC 7386, as far as events need it.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// One watch, until it is cut, or its time is over.
fn watch(shared: &Shared, stream: &mut TcpStream, request: &Request) -> Result<()> {
    let (resource, ..) = request.place().context("a watch of something")?;
    let selector = request.selector();
    let streamed = request.query("sendInitialEvents").is_some();
    let seconds = request
        .query("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(290));
    let (mut seen, cuts, mut bookmarks, first) = {
        let state = shared.state();
        if streamed && !state.streams {
            return http::respond(stream, 422, &status(422, "Invalid"));
        }
        let from = request
            .query("resourceVersion")
            .and_then(|text| text.parse().ok());
        let seen = if streamed {
            state.store.version()
        } else {
            from.unwrap_or(0)
        };
        let first = streamed.then(|| state.store.list(&resource, &selector));
        (seen, state.cuts, state.bookmarks, first)
    };
    http::begin_chunks(stream)?;
    if let Some(first) = first {
        for object in first {
            http::chunk(stream, &json!({"type": "ADDED", "object": object}))?;
        }
        http::chunk(stream, &bookmark(seen, true))?;
    }
    loop {
        let mut state = shared.state();
        let news = loop {
            if state.cuts != cuts {
                return http::cut(stream);
            }
            let news = state.store.since(&resource, &selector, seen);
            if news.as_ref().is_none_or(|news| !news.is_empty()) || state.bookmarks != bookmarks {
                break news;
            }
            if Instant::now() >= end {
                return http::end_chunks(stream);
            }
            let waited = shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        let version = state.store.version();
        let marked = std::mem::replace(&mut bookmarks, state.bookmarks) != bookmarks;
        drop(state);
        let Some(news) = news else {
            let gone = json!({"type": "ERROR", "object": status(410, "Expired")});
            http::chunk(stream, &gone)?;
            return http::end_chunks(stream);
        };
        for event in news {
            http::chunk(stream, &event)?;
        }
        seen = version;
        if marked {
            http::chunk(stream, &bookmark(seen, false))?;
        }
    }
}

fn bookmark(version: u64, ends_the_list: bool) -> Value {
    let mut meta = json!({"resourceVersion": version.to_string()});
    if ends_the_list {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": meta}})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the stand-in says {reason}"), "reason": reason, "code": code})
}
