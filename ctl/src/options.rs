//! From what was typed to what will be done.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::args::{Global, PointArgs};
use crate::client::{Endpoint, Tls};
use crate::cluster;
use crate::database::Wanted;
use crate::failure::{Failure, Result};
use crate::when::Clock;

/// The part of the environment that we look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// `SQLREP_AGENT`: stands in for `--agent`.
    pub(crate) agent: Option<OsString>,
    /// `SQLREP_TOKEN`: proves to the agent who asks.
    pub(crate) token: Option<OsString>,
    /// `NO_COLOR` is set and not empty.
    pub(crate) plain: bool,
    /// `TERM` says that the terminal can neither color nor redraw.
    pub(crate) dumb: bool,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            agent: set("SQLREP_AGENT"),
            token: set("SQLREP_TOKEN"),
            plain: set("NO_COLOR").is_some(),
            dumb: set("TERM").is_some_and(|term| term == "dumb"),
        }
    }
}

/// The agents to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This one.
    One(Endpoint),
    /// Those of a cluster.
    Cluster(cluster::Options),
}

/// Where the answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Agents.
    Agents(Reach),
    /// A directory, with nothing else alive (L11).
    Replica(PathBuf),
}

/// The agents to ask: the one that is named, else those of the cluster.
pub(crate) fn agents(global: &Global, environment: &Environment) -> Result<Reach> {
    // What is typed of a cluster wins over an agent of the environment.
    if !names_cluster(global)
        && let Some(endpoint) = named_agent(global, environment)?
    {
        return Ok(Reach::One(endpoint));
    }
    Ok(Reach::Cluster(cluster::Options {
        kubeconfig: global.kubeconfig.clone(),
        context: global.context.clone(),
        namespace: global.sqlrep_namespace.clone(),
        account: global.service_account.clone(),
    }))
}

fn names_cluster(global: &Global) -> bool {
    global.kubeconfig.is_some() || global.context.is_some() || global.service_account.is_some()
}

/// The agent that was named.
fn named_agent(global: &Global, environment: &Environment) -> Result<Option<Endpoint>> {
    let (from, text) = match (&global.agent, &environment.agent) {
        (Some(text), _) => ("--agent", text.clone()),
        (None, Some(text)) => match text.to_str() {
            Some(text) => ("SQLREP_AGENT", text.to_owned()),
            None => return Err(Failure::usage("SQLREP_AGENT is not valid UTF-8")),
        },
        (None, None) => return Ok(None),
    };
    let endpoint: Endpoint = text
        .parse()
        .map_err(|error| Failure::usage(format!("{from}: {error}")))?;
    match (&global.tls_ca, &global.tls_cert, &global.tls_key) {
        (Some(ca), Some(cert), Some(key)) => {
            let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
            endpoint.with_tls(Tls { ca, cert, key }).map(Some)
        }
        _ => Ok(Some(endpoint)),
    }
}

/// The directory if one is given, else the agents. What was typed wins over the environment.
pub(crate) fn source(
    global: &Global,
    replica: Option<&PathBuf>,
    environment: &Environment,
) -> Result<Source> {
    match replica {
        Some(_) if global.agent.is_some() || names_cluster(global) => Err(Failure::usage(
            "--replica reads the directory itself: it goes with neither --agent nor a cluster",
        )),
        Some(_) if global.namespace.is_some() => Err(Failure::usage(
            "-n needs agents to ask: a directory may hold anything",
        )
        .hint("name the namespace as part of REF")),
        Some(dir) => Ok(Source::Replica(dir.clone())),
        None => agents(global, environment).map(Source::Agents),
    }
}

/// The state that is wanted.
pub(crate) fn wanted(args: &PointArgs, clock: &Clock) -> Result<Wanted> {
    match (&args.txid, &args.timestamp) {
        (Some(txid), _) => Ok(Wanted::Txid(*txid)),
        (None, Some(text)) => clock
            .parse(text)
            .map(Wanted::Before)
            .map_err(|error| Failure::usage(format!("--timestamp: {error}"))),
        (None, None) => Ok(Wanted::Latest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn global(agent: Option<&str>) -> Global {
        Global {
            agent: agent.map(str::to_owned),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            timeout: None,
            context: None,
            kubeconfig: None,
            namespace: None,
            sqlrep_namespace: "sqlrep".to_owned(),
            service_account: None,
        }
    }

    fn environment(agent: Option<&str>) -> Environment {
        Environment {
            agent: agent.map(OsString::from),
            ..Environment::default()
        }
    }

    fn unix(path: &str) -> Endpoint {
        Endpoint::Unix(PathBuf::from(path))
    }

    #[test]
    fn what_is_typed_wins_over_the_environment() {
        let env = environment(Some("unix:/env"));
        let dir = PathBuf::from("/r");
        let chosen = |agent, replica| source(&global(agent), replica, &env).unwrap();
        assert_eq!(
            chosen(Some("unix:/typed"), None),
            Source::Agents(Reach::One(unix("/typed")))
        );
        assert_eq!(chosen(None, None), Source::Agents(Reach::One(unix("/env"))));
        assert_eq!(chosen(None, Some(&dir)), Source::Replica(dir.clone()));
    }

    #[test]
    fn without_an_agent_the_cluster_is_asked_and_what_is_typed_of_it_wins() {
        let none = agents(&global(None), &environment(None)).unwrap();
        assert!(matches!(none, Reach::Cluster(_)), "{none:?}");
        let mut typed = global(None);
        typed.context = Some("home".to_owned());
        let home = agents(&typed, &environment(Some("unix:/env"))).unwrap();
        assert!(
            matches!(&home, Reach::Cluster(options) if options.context == typed.context),
            "{home:?}"
        );
    }

    #[test]
    fn two_sources_are_a_usage_error() {
        let dir = PathBuf::from("/r");
        let both = source(&global(Some("unix:/a")), Some(&dir), &environment(None)).unwrap_err();
        assert_eq!(both.exit, Exit::Usage);
    }

    #[test]
    fn a_bad_endpoint_says_where_it_came_from() {
        let typed = agents(&global(Some("nonsense")), &environment(None)).unwrap_err();
        assert!(typed.to_string().starts_with("--agent: "), "{typed}");
        let env = agents(&global(None), &environment(Some("nonsense"))).unwrap_err();
        assert!(env.to_string().starts_with("SQLREP_AGENT: "), "{env}");
    }
}
