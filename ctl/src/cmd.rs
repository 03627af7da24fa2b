//! The verbs, one file each.

mod adopt;
mod check;
mod completion;
mod history;
mod list;
mod man;
mod restore;
mod snapshot;
mod sync;
mod takeover;
mod verify;
mod version;
mod watch;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agents::{Agents, Group, Job, work};
use crate::app::Context;
use crate::args::{SeveralArgs, Verb};
use crate::client::Step;
use crate::database::Id;
use crate::failure::{Exit, Failure, Result};
use crate::options;
use crate::output::{Cell, Output, Table};
use crate::reference::{Named, Reference};

/// Runs one verb.
pub(crate) fn run(verb: Verb, context: &mut Context) -> Result<Exit> {
    match verb {
        Verb::List(args) => list::run(&args, context),
        Verb::Restore(args) => restore::run(&args, context),
        Verb::History(args) => history::run(&args, context),
        Verb::Sync(args) => sync::run(&args, context),
        Verb::Snapshot(args) => snapshot::run(&args, context),
        Verb::Verify(args) => verify::run(&args, context),
        Verb::Watch(args) => watch::run(&args, context),
        Verb::Check(args) => check::run(args, context),
        Verb::Takeover(args) => takeover::run(&args, context),
        Verb::Adopt(args) => adopt::run(&args, context),
        Verb::Version(args) => version::run(args, context),
        Verb::Man { verb } => man::run(verb.as_deref(), context),
        Verb::Completion { shell } => completion::run(shell, context),
    }
}

fn needed(reference: Option<&Reference>) -> Result<&Reference> {
    reference.ok_or_else(|| {
        Failure::usage("no database named").hint("`sqlrepctl list` shows what there is")
    })
}

/// All things that some references mean, each once, by name.
pub(crate) fn pick<'a, T: Named>(
    things: &'a [T],
    references: &[Reference],
    all: bool,
) -> Result<Vec<&'a T>> {
    let mut picked = BTreeMap::new();
    if all {
        picked.extend(things.iter().map(|thing| (thing.name(), thing)));
        if picked.is_empty() {
            return Err(Failure::not_found("there is no database here"));
        }
    }
    for reference in references {
        for thing in reference.several(things)? {
            picked.insert(thing.name(), thing);
        }
    }
    Ok(picked.into_values().collect())
}

/// What became of each database of a verb on several.
#[derive(Debug, Serialize)]
struct Outcome<D> {
    database: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(flatten)]
    result: Option<D>,
}

/// Gathers the ends of a verb on several.
#[derive(Debug)]
struct Outcomes<D> {
    outcomes: Vec<Outcome<D>>,
    exits: Vec<Exit>,
}

impl<D> Outcomes<D> {
    fn new() -> Self {
        Self {
            outcomes: Vec::new(),
            exits: Vec::new(),
        }
    }

    fn done(&mut self, database: String, result: D) {
        let result = Some(result);
        self.outcomes.push(Outcome {
            database,
            ok: true,
            error: None,
            hint: None,
            result,
        });
    }

    /// Said at once, since others may take long.
    fn failed(&mut self, database: String, failure: &Failure, output: &mut Output) {
        output.note(&format!("sqlrepctl: {database}: {failure}"));
        if let Some(hint) = failure.next_step() {
            output.note(&format!("  hint: {hint}"));
        }
        self.exits.push(failure.exit);
        self.outcomes.push(Outcome {
            database,
            ok: false,
            error: Some(failure.to_string()),
            hint: failure.next_step().map(str::to_owned),
            result: None,
        });
    }

    fn exit(&self) -> Exit {
        Failure::exit_of_all(self.exits.iter().copied())
    }

    /// One row for each that worked; what did not was said already.
    fn table(&self, headings: &[&'static str], row: impl Fn(&D) -> Vec<Cell>) -> Table {
        let mut table = Table::new(headings);
        for outcome in &self.outcomes {
            if let Some(result) = &outcome.result {
                let mut cells = vec![Cell::new(&outcome.database)];
                cells.extend(row(result));
                table.push(cells);
            }
        }
        table
    }

    /// What worked, by name.
    fn results(&self) -> impl Iterator<Item = (&str, &D)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(|one| Some((one.database.as_str(), one.result.as_ref()?)))
    }

    fn worked(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.ok)
    }
}

/// Prints the outcomes of a verb on several and says how it went.
fn conclude<D: Serialize>(
    outcomes: &mut Outcomes<D>,
    args: crate::args::FormatArgs,
    output: &mut Output,
    headings: &[&'static str],
    row: impl Fn(&D) -> Vec<Cell>,
) -> Result<Exit> {
    use crate::args::Format;
    outcomes
        .outcomes
        .sort_by(|one, two| one.database.cmp(&two.database));
    let people = matches!(args.format, Format::Table | Format::Wide);
    // A heading over nothing would look like an answer.
    if !people || outcomes.worked() {
        output.data(args.format, &outcomes.outcomes, || {
            outcomes.table(headings, row)
        })?;
    }
    Ok(outcomes.exit())
}

/// Takes the steps of a call on several in.
fn take<W, D>(
    outcomes: &mut Outcomes<D>,
    output: &mut Output,
    bar: &crate::output::Bar,
    id: &Id,
    step: Step<W>,
    result: impl FnOnce(W) -> D,
) {
    match step {
        Step::Progress(done, total) => {
            bar.name(&id.name());
            bar.at(done, total);
        }
        Step::Done(done) => outcomes.done(id.name(), result(done)),
        Step::Failed(failure) => outcomes.failed(id.name(), &failure, output),
    }
}

/// A TXID in JSON and YAML: all 16 digits, as in the names of files.
fn txid_text(txid: sqlrep_format::Txid) -> String {
    txid.to_string()
}

/// Does a verb's job on the databases that it names, wherever they are.
async fn perform<J: Job, D>(
    job: &J,
    args: &SeveralArgs,
    context: &mut Context,
    what: &str,
    result: impl Fn(J::Done) -> D,
) -> Result<Outcomes<D>> {
    let reach = options::agents(&context.global, &context.environment)?;
    let agents = Agents::find(context, &reach).await?;
    let output = &mut context.output;
    let groups = agents.several(&args.references, args.all, output).await?;
    let mut outcomes = Outcomes::new();
    carry_out(
        (&agents, job),
        &groups,
        (output, what),
        &mut outcomes,
        result,
    )
    .await?;
    Ok(outcomes)
}

/// Does the job and gathers what becomes of each database.
async fn carry_out<J: Job, D>(
    (agents, job): (&Agents, &J),
    groups: &[Group],
    (output, what): (&mut Output, &str),
    outcomes: &mut Outcomes<D>,
    result: impl Fn(J::Done) -> D,
) -> Result<()> {
    let bar = output.bar(what);
    work(agents, job, groups, |id, step| {
        take(outcomes, output, &bar, id, step, &result);
    })
    .await
}
