//! Rewinding the live database of a running pod.
//!
//! The wanted state is restored to a scratch file; then a [`Process`] of its own writes it over the
//! live database in one transaction. While that process has the lock, and before it writes, the
//! last commit of the app is captured: so what the rewind replaces has a TXID of its own, and the
//! rewind is undone by rewinding to that. What the app sees, and what is shipped, is one commit.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sqlrep_capture::{Answer, Keeper, Order, Rewind};
use sqlrep_format::{PageSize, Txid};
use sqlrep_replica::{DbId, Point};
use tokio::sync::watch;
use tokio::time::interval;

use crate::database::Handle;
use crate::error::{CommandError, chain};
use crate::fleet::{Fleet, gone};
use crate::limits;
use crate::process::Process;
use crate::requests::ReadProgress;
use crate::stage::capture::Capture;

/// The verb by which the agent's program is called to write into a live database.
pub const REWIND_VERB: &str = "rewind";

/// A database that was rewound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The state whose content it has.
    pub from: Txid,
    /// The state that it had before.
    pub before: Txid,
    /// The state in which it has that content: its newest, with what the app has written since.
    pub txid: Txid,
}

/// The state that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which one.
    pub point: Point,
    /// Of which branch; `None` is the replica itself.
    pub branch: Option<String>,
}

/// What the process does that [`REWIND_VERB`] starts: what it is told on its standard input. It
/// must have one thread.
pub fn rewind_process(source: PathBuf, volume: PathBuf, path: PathBuf) -> io::Result<()> {
    let job = Rewind {
        source,
        volume,
        path,
    };
    let mut answers = io::stdout().lock();
    match job.prepare() {
        Ok(prepared) => prepared.obey(io::stdin().lock(), answers),
        Err(error) => {
            use io::Write as _;
            writeln!(answers, "{}", Answer::Refused(chain(&error)))
        }
    }
}

impl Fleet {
    /// Gives a live database the content of another state, as one commit of its own: history goes
    /// on, and what is there now can be had back. A caller that goes away ends it; the database
    /// then has one content or the other.
    pub async fn rewind(
        &self,
        id: &DbId,
        wanted: Wanted,
        progress: watch::Sender<ReadProgress>,
    ) -> Result<Rewound, CommandError> {
        let (key, handle) = self.live_handle(id).ok_or_else(|| gone(id))?;
        // First of all: what is there is on the replica, and the replica is this database's own.
        self.capture_and_ship(id).await?;
        let (from, before) = self
            .unless_it_goes(
                &key.pod_uid,
                self.write_over(id, &handle, wanted, &progress),
            )
            .await?;
        let txid = self.capture_and_ship(id).await?;
        tracing::info!(db = %id, %from, %before, %txid, "rewound");
        Ok(Rewound { from, before, txid })
    }

    async fn write_over(
        &self,
        id: &DbId,
        handle: &Handle,
        wanted: Wanted,
        progress: &watch::Sender<ReadProgress>,
    ) -> Result<(Txid, Txid), CommandError> {
        let (scratch, info) = self
            .restore_scratch(id, wanted.point, wanted.branch)
            .await?;
        let args = [scratch.path(), handle.volume.as_path(), id.path()];
        let process = Process::start(REWIND_VERB, args);
        let mut process =
            Talk(process.map_err(|error| failed(&format!("it cannot be started: {error}")))?);
        process.expect(&Answer::Ready, limits::REWIND_START).await?;
        drop(scratch); // the process has it open
        let capture = handle.capture.as_ref().ok_or_else(|| gone(id))?;
        let before = last_before(id, capture, &mut process).await?;
        process.order(Order::Write).await?;
        loop {
            match process.hear(limits::REWIND_STEP).await? {
                Answer::Done => return Ok((info.txid, before)),
                Answer::Wrote { pages, of } => {
                    let (done, total) = (bytes(pages, info.page_size), bytes(of, info.page_size));
                    progress.send_replace(ReadProgress { done, total });
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Nothing is done in the volumes of a pod that terminates (L15): dropping the work ends it.
    async fn unless_it_goes<T>(
        &self,
        pod_uid: &str,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        let mut tick = interval(limits::REWIND_WATCH);
        let gone = async {
            while !self.context.goes_away(pod_uid) {
                tick.tick().await;
            }
        };
        tokio::select! {
            done = work => done,
            () = gone => Err(CommandError::Refused(
                "the pod terminates: its next one can be given any state before it starts".to_owned(),
            )),
        }
    }
}

/// The words of a rewind.
struct Talk(Process);

impl Talk {
    async fn order(&mut self, order: Order) -> Result<(), CommandError> {
        let told = self.0.tell(&order.to_string()).await;
        told.map_err(|error| failed(&format!("it does not listen: {error}")))
    }

    async fn hear(&mut self, patience: Duration) -> Result<Answer, CommandError> {
        let heard = self.0.hear(patience).await;
        let answer = heard.and_then(|line| line.trim_end().parse());
        answer.map_err(|error| failed(&error.to_string()))
    }

    /// Who holds the lock.
    fn keeper(&self) -> Result<Keeper, CommandError> {
        let id = self.0.id().map(Keeper);
        id.ok_or_else(|| failed("it has ended"))
    }

    /// Waits for one answer and no other.
    async fn expect(&mut self, wanted: &Answer, patience: Duration) -> Result<(), CommandError> {
        match self.hear(patience).await? {
            answer if answer == *wanted => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

/// What an answer means that ends a rewind.
fn unexpected(answer: Answer) -> CommandError {
    match answer {
        Answer::Refused(reason) => CommandError::Refused(reason),
        Answer::Failed(reason) => {
            CommandError::Failed(format!("nothing was changed: SQLite says: {reason}"))
        }
        other => failed(&format!("it said {other} out of turn")),
    }
}

fn failed(what: &str) -> CommandError {
    CommandError::Failed(format!(
        "the process that rewinds the database failed ({what}); the database has its content of \
         before, or all of the wanted one: sqlrepctl history shows which"
    ))
}

/// Has the process take the lock and captures what was committed until then; the lock is held
/// when this returns.
async fn last_before(
    id: &DbId,
    capture: &Capture,
    process: &mut Talk,
) -> Result<Txid, CommandError> {
    capture.cut().await?; // so that little is left for when the app has to wait
    process.order(Order::Lock).await?;
    match process.hear(limits::REWIND_LOCK).await? {
        Answer::Locked => {}
        Answer::Busy => return Err(locked(id)),
        other => return Err(unexpected(other)),
    }
    Ok(capture.seal(process.keeper()?).await?)
}

fn locked(id: &DbId) -> CommandError {
    CommandError::Refused(format!(
        "{id} is locked: its app, or a shell in the pod, has kept a transaction open for more than \
         10 s; end that and try again; nothing was written"
    ))
}

fn bytes(pages: u32, page_size: PageSize) -> u64 {
    u64::from(pages) * u64::from(page_size.get())
}
