//! Callers who read, stop reading, go away, and come back.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;
use crate::rpc::peer::{Origin, UNUSED};

/// What work holds until it is dropped, as a restore its file.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream of so many messages whose work holds something to its end, and how many hold it.
fn stream(streams: &Streams, messages: usize) -> (Answers<usize>, Arc<AtomicUsize>) {
    let holding = Arc::new(AtomicUsize::new(1));
    let held = Held(Arc::clone(&holding));
    let work = |sink: Sink<usize>| async move {
        let _held = held;
        for number in 0..messages {
            sink.send(number).await?;
        }
        Ok(())
    };
    let answer = streams
        .answer(&MetadataMap::new(), &Extensions::new(), work)
        .unwrap();
    (answer.into_inner(), holding)
}

fn open(streams: &Streams) -> usize {
    STREAMS_MAX - streams.permits.available_permits()
}

async fn wait(share: f64) {
    sleep(TAKEN_WITHIN.mul_f64(share)).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_holds_nothing_and_is_told_so() {
    let streams = Streams::new(CancellationToken::new());
    let (mut answer, holding) = stream(&streams, usize::MAX);
    assert_eq!(answer.next().await.unwrap().unwrap(), 0);
    wait(0.9).await;
    assert_eq!((open(&streams), holding.load(Ordering::Relaxed)), (1, 1));
    wait(1.2).await;
    assert_eq!((open(&streams), holding.load(Ordering::Relaxed)), (0, 0));
    // What waited is gone as well: a megabyte each.
    let told = answer.next().await.unwrap().unwrap_err();
    assert_eq!(told.code(), Code::Cancelled);
    assert!(told.message().contains("took nothing"), "{told}");
    assert!(answer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_work_is_done_holds_its_place_until_it_is_taken() {
    let streams = Streams::new(CancellationToken::new());
    let (answer, holding) = stream(&streams, QUEUE - 1);
    wait(0.1).await;
    assert_eq!((open(&streams), holding.load(Ordering::Relaxed)), (1, 0));
    wait(2.0).await;
    assert_eq!(open(&streams), 0);
    drop(answer);
    let (answer, _) = stream(&streams, QUEUE - 1);
    let all: Vec<_> = answer.collect().await;
    assert_eq!(all.len(), QUEUE - 1);
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(open(&streams), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_caller_gets_all_and_a_quiet_stream_stays_open() {
    let streams = Streams::new(CancellationToken::new());
    let (mut answer, _) = stream(&streams, 40);
    for number in 0..40 {
        wait(0.9).await;
        assert_eq!(answer.next().await.unwrap().unwrap(), number);
    }
    assert!(answer.next().await.is_none());
    // Nothing waits: nobody is late.
    let quiet = |sink: Sink<u32>| async move {
        sleep(TAKEN_WITHIN * 10).await;
        Ok(sink.send(7).await?)
    };
    let quiet = streams
        .answer(&MetadataMap::new(), &Extensions::new(), quiet)
        .unwrap();
    let all: Vec<_> = quiet.into_inner().collect().await;
    assert!(matches!(all[..], [Ok(7)]), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_ends_the_work_at_once() {
    let streams = Streams::new(CancellationToken::new());
    let (answer, holding) = stream(&streams, usize::MAX);
    wait(0.1).await;
    drop(answer);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((open(&streams), holding.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_ends_an_answer_that_nobody_takes() {
    let stop = CancellationToken::new();
    let streams = Streams::new(stop.clone());
    let (mut answer, holding) = stream(&streams, usize::MAX);
    wait(0.1).await;
    stop.cancel();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(holding.load(Ordering::Relaxed), 0);
    let mut last = None;
    while let Some(message) = answer.next().await {
        last = Some(message);
    }
    assert_eq!(last.unwrap().unwrap_err().code(), Code::Unavailable);
}

/// A connection is used by work, and not by what waits for a caller who takes nothing.
#[tokio::test(start_paused = true)]
async fn a_connection_is_used_as_long_as_its_answer_is_worked_on() {
    let streams = Streams::new(CancellationToken::new());
    let peer = Peer::new(Origin::Network);
    let mut extensions = Extensions::new();
    extensions.insert(peer.clone());
    let in_use = || peer.over_at() == Instant::now() + UNUSED;
    let quiet = |sink: Sink<u32>| async move {
        sleep(TAKEN_WITHIN * 10).await;
        Ok(sink.send(7).await?)
    };
    let answer = streams
        .answer(&MetadataMap::new(), &extensions, quiet)
        .unwrap();
    let collected = tokio::spawn(answer.into_inner().collect::<Vec<_>>());
    wait(9.9).await;
    assert!(in_use());
    assert_eq!(collected.await.unwrap().len(), 1);
    wait(0.01).await;
    assert!(!in_use(), "its end is the last use");
    let flood = |sink: Sink<u32>| async move {
        loop {
            sink.send(1).await?;
        }
    };
    let answer = streams
        .answer(&MetadataMap::new(), &extensions, flood)
        .unwrap();
    wait(0.9).await;
    assert!(in_use());
    wait(1.2).await;
    assert!(!in_use(), "it was cut");
    drop(answer);
}

/// Work that panics has not said all that there is.
#[tokio::test]
async fn an_answer_whose_work_panics_does_not_end_well() {
    let streams = Streams::new(CancellationToken::new());
    let work = |sink: Sink<u32>| async move {
        sink.send(1).await?;
        panic!("as a bug would");
    };
    let answer = streams
        .answer(&MetadataMap::new(), &Extensions::new(), work)
        .unwrap();
    let all: Vec<_> = answer.into_inner().collect().await;
    assert!(matches!(&all[..], [Ok(1), Err(status)] if status.code() == Code::Internal));
    assert_eq!(open(&streams), 0);
}
