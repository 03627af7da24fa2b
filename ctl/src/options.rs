//! From what was typed to what will be done.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::args::{Global, PointArgs};
use crate::client::Endpoint;
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

/// Where the answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An agent.
    Agent(Endpoint),
    /// A directory, with nothing else alive (L11).
    Replica(PathBuf),
}

/// The agent to ask.
pub(crate) fn agent(global: &Global, environment: &Environment) -> Result<Endpoint> {
    known_agent(global, environment)?.ok_or_else(|| {
        Failure::usage("no agent given: use --agent unix:PATH or SQLREP_AGENT, or --replica DIR")
    })
}

/// The agent to ask, if one was named.
pub(crate) fn known_agent(global: &Global, environment: &Environment) -> Result<Option<Endpoint>> {
    let (from, text) = match (&global.agent, &environment.agent) {
        (Some(text), _) => ("--agent", text.clone()),
        (None, Some(text)) => match text.to_str() {
            Some(text) => ("SQLREP_AGENT", text.to_owned()),
            None => return Err(Failure::usage("SQLREP_AGENT is not valid UTF-8")),
        },
        (None, None) => return Ok(None),
    };
    let endpoint = text
        .parse()
        .map_err(|error| Failure::usage(format!("{from}: {error}")))?;
    Ok(Some(endpoint))
}

/// The directory if one is given, else the agent. What was typed wins over the environment.
pub(crate) fn source(
    global: &Global,
    replica: Option<&PathBuf>,
    environment: &Environment,
) -> Result<Source> {
    match replica {
        Some(_) if global.agent.is_some() => Err(Failure::usage(
            "--agent and --replica exclude each other: --replica reads the directory itself",
        )),
        Some(dir) => Ok(Source::Replica(dir.clone())),
        None => agent(global, environment).map(Source::Agent),
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
            timeout: None,
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
            Source::Agent(unix("/typed"))
        );
        assert_eq!(chosen(None, None), Source::Agent(unix("/env")));
        assert_eq!(chosen(None, Some(&dir)), Source::Replica(dir.clone()));
    }

    #[test]
    fn neither_or_both_sources_are_a_usage_error() {
        let none = source(&global(None), None, &environment(None)).unwrap_err();
        assert_eq!(none.exit, Exit::Usage);
        assert_eq!(
            none.to_string(),
            "no agent given: use --agent unix:PATH or SQLREP_AGENT, or --replica DIR"
        );
        let dir = PathBuf::from("/r");
        let both = source(&global(Some("unix:/a")), Some(&dir), &environment(None)).unwrap_err();
        assert_eq!(both.exit, Exit::Usage);
    }

    #[test]
    fn a_bad_endpoint_says_where_it_came_from() {
        let typed = agent(&global(Some("nonsense")), &environment(None)).unwrap_err();
        assert!(typed.to_string().starts_with("--agent: "), "{typed}");
        let env = agent(&global(None), &environment(Some("nonsense"))).unwrap_err();
        assert!(env.to_string().starts_with("SQLREP_AGENT: "), "{env}");
    }
}
