//! What no log may hold: tokens, and what is in the pages of a database. The agent at its most
//! talkative, the client too, through every verb, good and bad.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::ctl::{Ctl, exit};
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Pod, PodOptions, Said, Sqlite, World, ltx, say, scenario, wait,
};

use crate::binaries;
use crate::damage::free_port;
use crate::scene::Scene;

/// A token that is good, and one that is not.
const TOKEN: &str = "tokenmark-2f4d6a8c0e1b3d5f";
const STOLEN: &str = "stolenmark-7a9b1c3d5e7f9a0b";
/// What rows hold: as a key, as a text, and in a blob.
const ROW: &str = "rowmark-c4e6a8b0d2f4";

/// A secret as it is, and in the ways in which programs print bytes, without what is between them.
fn forms(secret: &str) -> Vec<String> {
    let bytes = &secret.as_bytes()[..12];
    let each = |of: &dyn Fn(&u8) -> String, between: &str| {
        bytes.iter().map(of).collect::<Vec<_>>().join(between)
    };
    vec![
        secret[..12].to_owned(),
        each(&|byte| format!("{byte:02x}"), ""),
        each(&|byte| format!("{byte:02X}"), ""),
        each(&|byte| format!("{byte:02x}"), ","),
        each(&|byte| format!("0x{byte:02x}"), ","),
        each(&|byte| byte.to_string(), ","),
        each(&|byte| format!("\\x{byte:02x}"), ""),
    ]
}

/// None of the secrets is in a text.
fn clean(what: &str, text: &str) -> Result<()> {
    let text: String = text.split_whitespace().collect();
    for secret in [TOKEN, STOLEN, ROW] {
        for form in forms(secret) {
            if let Some(at) = text.find(&form) {
                let from = (0..=at.saturating_sub(300))
                    .rev()
                    .find(|at| text.is_char_boundary(*at));
                let line = text[from.unwrap_or(0)..]
                    .chars()
                    .take(700)
                    .collect::<String>();
                anyhow::bail!("{what} holds {form:?}: …{line}…");
            }
        }
    }
    Ok(())
}

/// Runs a verb, which ends as it should, and says no secret.
fn verb(ctl: &Ctl, words: &[&str], code: i32) -> Result<Said> {
    any(ctl, words)?.exits(code)
}

/// Runs a verb, however it ends.
fn any(ctl: &Ctl, words: &[&str]) -> Result<Said> {
    let said = ctl.run(words)?;
    clean(&format!("{words:?}"), &format!("{}{}", said.out, said.err))?;
    Ok(said)
}

fn every_verb(world: &World, ctl: &Ctl, scene: &Scene) -> Result<()> {
    let (name, out) = (scene.reference.as_str(), world.path("restored.db"));
    let out = out.to_string_lossy();
    let before = format!("{:x}", ltx::head(&scene.replica)?);
    verb(ctl, &["list", "-o", "json"], exit::DONE)?;
    verb(ctl, &["list", "--replicas"], exit::DONE)?;
    verb(ctl, &["sync", name], exit::DONE)?;
    verb(ctl, &["snapshot", name], exit::DONE)?;
    verb(ctl, &["history", name], exit::DONE)?;
    verb(ctl, &["verify", name], exit::DONE)?;
    verb(ctl, &["restore", name, "-o", &out], exit::DONE)?;
    verb(ctl, &["restore", name, "-o", &out], exit::REFUSED)?;
    verb(ctl, &["history", "nobody"], exit::NOT_FOUND)?;
    any(ctl, &["takeover", name])?;
    let rewind = ["restore", name, "--in-place", "--yes", "--txid", &before];
    verb(ctl, &rewind, exit::DONE)?;
    verb(ctl, &["version"], exit::DONE)?;
    let restored = fs::read(world.path("restored.db"))?;
    let mark = ROW.as_bytes();
    ensure!(
        restored.windows(mark.len()).any(|bytes| bytes == mark),
        "the rows are not in the restore: nothing was looked for"
    );
    Ok(())
}

fn start(world: &World, api: &ApiServer, port: u16, format: &str) -> Result<Agent> {
    let mut options = AgentOptions::kube(api.kubeconfig(world)?)
        .flag("--listen", &format!("127.0.0.1:{port}"))
        .flag("--verify-interval", "1s")
        .flag("--log-format", format);
    options.env = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    world.agent_with(options)
}

fn marked(db: &Path) -> Result<()> {
    let blob = &forms(ROW)[1];
    Sqlite::once(
        db,
        &format!(
            "PRAGMA journal_mode=wal; CREATE TABLE a (k PRIMARY KEY, t, b) WITHOUT ROWID; \
             CREATE TABLE c (t); CREATE INDEX i ON c (t); \
             INSERT INTO a SELECT '{ROW}' || value, '{ROW}', x'{blob}' FROM generate_series(1, 200); \
             INSERT INTO c SELECT t FROM a;"
        ),
    )?;
    Ok(())
}

/// One question each, of its own verb and resource, about her and nobody else.
fn reviewed(api: &ApiServer) -> Result<()> {
    let asked = api.reviews();
    ensure!(asked.iter().all(|spec| spec["user"] == "jane"), "{asked:?}");
    for (verb, sub) in [
        ("list", ""),
        ("create", "sync"),
        ("create", "snapshot"),
        ("create", "verify"),
        ("get", ""),
        ("get", "restore"),
        ("update", "restore"),
    ] {
        let found = asked.iter().any(|spec| {
            let of = &spec["resourceAttributes"];
            of["verb"] == verb
                && of["group"] == "sqlrep.io"
                && of["resource"] == "replicas"
                && of["subresource"].as_str().unwrap_or_default() == sub
        });
        ensure!(
            found,
            "nobody asked whether she may {verb} {sub}: {asked:?}"
        );
    }
    Ok(())
}

/// Damage of every kind: in the app's own database, and in the replica.
fn damage(agent: &Agent, jane: &Ctl, scene: &Scene) -> Result<()> {
    Sqlite::once(
        &scene.db,
        "PRAGMA writable_schema=on; UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM \
         sqlite_schema WHERE name='a') WHERE name='i';",
    )?;
    agent.ctl().sync(&scene.reference)?;
    any(jane, &["verify", &scene.reference])?;
    let files = ltx::below(&scene.replica.join("ltx"))?;
    ltx::damage(files.iter().max().context("a file")?)?;
    any(jane, &["verify", &scene.reference]).map(drop)
}

#[test]
fn no_log_holds_a_token_or_the_content_of_a_row() {
    scenario("secrets", binaries(), |world| {
        let (api, port) = (ApiServer::start()?, free_port()?);
        api.know(TOKEN, "jane");
        let mut agent = start(world, &api, port, "text")?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        api.put("pods", pod.document().clone());
        pod.wait_ready()?;
        let scene = Scene::of(world, pod);
        marked(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        let door = || {
            let ctl = Ctl::new(&world.binaries.ctl, Some(format!("127.0.0.1:{port}")));
            ctl.env("RUST_LOG", "trace")
        };
        let jane = door().env("SQLREP_TOKEN", TOKEN);
        every_verb(world, &jane, &scene)?;
        verb(&door(), &["list"], exit::REFUSED)?;
        let thief = door().env("SQLREP_TOKEN", STOLEN);
        verb(&thief, &["list"], exit::REFUSED)?;
        verb(
            &thief,
            &["restore", &scene.reference, "-o", "/dev/null"],
            exit::REFUSED,
        )?;
        reviewed(&api)?;
        damage(&agent, &jane, &scene)?;
        agent.kill()?;
        agent = start(world, &api, port, "json")?;
        agent.ctl().wait_following(&scene.reference)?;
        jane.sync(&scene.reference)?;
        let offline = world.ctl().env("RUST_LOG", "trace");
        let replica = scene.replica.to_string_lossy();
        verb(&offline, &["history", "--replica", &replica], exit::DONE)?;
        let out = world.path("offline.db");
        let out = out.to_string_lossy();
        // Refused until the agent has mended the replica, which may have been on its way when it was killed.
        let restore = ["restore", "--replica", &replica, "-o", &out];
        wait("it restores again", || {
            Ok(any(&offline, &restore)?.code == exit::DONE)
        })?;
        let name = scene.pod.document()["metadata"]["name"].as_str();
        api.delete("pods", "default", name.context("a name")?);
        wait("it is gone", || Ok(agent.ctl().list()?.is_empty()))?;
        let log = {
            let path = world.path("n1.log");
            agent.terminate()?;
            fs::read_to_string(path)?
        };
        ensure!(
            log.contains("TRACE") && log.contains("allowed user="),
            "it said little"
        );
        say(&format!("secrets: {} KiB of log", log.len() >> 10));
        for form in forms(ROW).iter().chain(&forms(TOKEN)) {
            ensure!(clean("a line", &format!("x {form}")).is_err(), "{form}");
        }
        for event in api.objects("events") {
            clean("an event", &event.to_string())?;
        }
        clean("the log", &log)
    });
}
