//! The end: stop taking in, capture and ship what is there, within a deadline.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::app::App;

/// How long open calls may take to end after they were told.
const SERVERS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long pods that terminate are followed to their end, if `--drain-timeout` is not shorter. With
/// the drain timeout and the servers' it stays within the pod's 60 s of grace.
const ENDINGS_TIMEOUT: Duration = Duration::from_secs(20);

/// What ends an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// SIGTERM or SIGINT.
    Signal,
    /// These, or the end of standard input: a child that must not outlive its parent.
    SignalOrEndOfInput,
}

/// Tells when to end.
#[derive(Debug)]
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    input: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Takes the signals over from here on. Must be called inside a runtime.
    pub(crate) fn new(until: Until) -> io::Result<Self> {
        let input = match until {
            Until::Signal => None,
            Until::SignalOrEndOfInput => Some(end_of_input()?),
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            input,
        })
    }

    /// Waits for the next of them; its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let input = async {
            match &mut self.input {
                // The thread sends nothing: it ends.
                Some(input) => drop(input.await),
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = input => "end of input",
        };
        if reason == "end of input" {
            self.input = None;
        }
        reason
    }
}

/// Resolves when standard input is closed.
fn end_of_input() -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // However reading ends, nobody speaks to us any more.
            drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
            drop(sender);
        })?;
    Ok(receiver)
}

/// Ends an agent. A further signal cuts the drain short: what is left in the spool ships at the
/// next start.
pub(crate) async fn drain(app: App, stop: &mut Stop) {
    tokio::select! {
        () = end(app) => {}
        signal = stop.next() => tracing::warn!(signal, "told again: the drain is cut short"),
    }
}

/// Ends an agent, within its drain timeout.
pub(crate) async fn end(app: App) {
    let App {
        fleet,
        stop,
        mut tasks,
        sockets,
        ..
    } = app;
    fleet.settle(ENDINGS_TIMEOUT).await;
    stop.cancel();
    let report = fleet.clone().shutdown().await;
    for id in &report.left {
        tracing::warn!(db = %id, "its tail waits in the spool; it ships at the next start");
    }
    let servers = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SERVERS_TIMEOUT, servers)
        .await
        .is_err()
    {
        tracing::debug!("calls were still open");
    }
    // The state directory goes last, with the fleet: the next agent finds its sockets free.
    drop(sockets);
    tracing::info!(
        drained = report.drained,
        left = report.left.len(),
        "sqlrep-agent ends"
    );
}
