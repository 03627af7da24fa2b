//! `check`: one line a check, a hint for each failure.

use serde::Serialize;

use crate::app::{Context, converse};
use crate::args::FormatArgs;
use crate::client::{Health, Info};
use crate::failure::{Exit, Failure, Result};
use crate::options;
use crate::output::{Cell, Color, Table};

/// One check for programs.
#[derive(Debug, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: String,
    ok: bool,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

pub(super) fn run(args: FormatArgs, context: &mut Context) -> Result<Exit> {
    let endpoint = options::agent(&context.global, &context.environment)?;
    let asked = converse(async { context.connect(&endpoint).await?.info().await });
    let (checks, exit) = match asked {
        Ok(info) => {
            let checks = of_agent(info);
            let well = checks.iter().all(|check| check.ok);
            (checks, if well { Exit::Done } else { Exit::Failed })
        }
        Err(failure) => (vec![unreachable(&failure)], failure.exit),
    };
    context.output.data(args.format, &checks, || {
        let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
        for check in &checks {
            let (word, color) = if check.ok {
                ("ok", Color::Good)
            } else {
                ("FAILED", Color::Bad)
            };
            let result = Cell::new(word).colored(color);
            table.push(vec![
                Cell::new(&check.name),
                result,
                Cell::new(&check.message),
            ]);
        }
        table
    })?;
    for check in checks.iter().filter(|check| !check.hint.is_empty()) {
        context
            .output
            .note(&format!("{}: {}", check.name, check.hint));
    }
    Ok(exit)
}

fn unreachable(failure: &Failure) -> Check {
    Check {
        name: "agent".to_owned(),
        ok: false,
        message: failure.to_string(),
        hint: failure.next_step().unwrap_or_default().to_owned(),
    }
}

fn of_agent(info: Info) -> Vec<Check> {
    let client = env!("CARGO_PKG_VERSION");
    let same = info.version == client;
    let hint = if same {
        ""
    } else {
        "use the sqlrepctl of the agent's version"
    };
    let mut checks = vec![
        Check {
            name: "agent".to_owned(),
            ok: true,
            message: format!(
                "answers on node {}, {} databases",
                info.node, info.databases
            ),
            hint: String::new(),
        },
        Check {
            name: "version".to_owned(),
            ok: same,
            message: format!("agent {}, sqlrepctl {client}", info.version),
            hint: hint.to_owned(),
        },
    ];
    checks.extend(info.health.into_iter().map(|health| {
        let Health {
            name,
            ok,
            message,
            hint,
        } = health;
        Check {
            name,
            ok,
            message,
            hint,
        }
    }));
    checks
}
